"""Frameworks as a request knows them: the packages, versions and backends that each offers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from muster.core.errors import RequestError

BACKENDS = ("gloo", "nccl")
LATER_BACKENDS = ("mpi", "ps")
_VERSION = re.compile(r"(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})(?P<patch>\.[0-9]{1,4})?(?P<build>\+[a-z0-9][a-z0-9.]*)?")


@dataclass(frozen=True, kw_only=True)
class Framework:
    """``packages``: what an environment gets that doesn't name them itself; the first is the framework, in the versions from
    ``oldest`` up to, not including, ``end``. ``needs_backend``: more than one process must say how they talk.
    """

    name: str
    packages: tuple[str, ...] = ()
    oldest: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)
    needs_backend: bool = False

    def pinned(self, version: str) -> str:
        """Give the requirement for a version; one of two parts, such as 2.13, takes any patch of it.

        :raises RequestError: a version that is not supported, or the framework has none.
        """
        if not self.packages:
            raise RequestError(f"framework_version {version!r}: framework {self.name!r} has no version; use pip_packages")
        match = _VERSION.fullmatch(version)
        if match is None or not self.oldest <= (int(match["major"]), int(match["minor"])) < self.end:
            raise RequestError(f"framework_version {version!r} is not supported for {self.name}; supported: {self._range()}")
        exact = match["patch"] or match["build"]
        return f"{self.packages[0]}=={version}" if exact else f"{self.packages[0]}=={version}.*"

    def _range(self) -> str:
        (major, minor), (end_major, end_minor) = self.oldest, self.end
        return f"{major}.{minor} and later, before {end_major}.{end_minor}, such as {major}.{minor} or {major}.{minor}.0"


FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        framework.name: framework
        for framework in (
            Framework(name="any"),
            # torch works without numpy, but warns at its import and can't make tensors of arrays
            Framework(name="pytorch", packages=("torch", "numpy"), oldest=(2, 1), end=(3, 0), needs_backend=True),
        )
    }
)
