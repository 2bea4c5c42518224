"""Frameworks as a request knows them: the packages, versions and backends that each offers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from muster.core.errors import RequestError

_VERSION = re.compile(r"(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})(?P<patch>\.[0-9]{1,4})?(?P<build>\+[a-z0-9][a-z0-9.]*)?")


@dataclass(frozen=True, kw_only=True)
class Framework:
    """``packages``: what an environment gets that doesn't name them itself, ``gpu_packages`` instead where GPUs are used; the
    first is the framework, in the versions from ``oldest`` up to, not including, ``end``. ``same`` are other names of it.

    ``backends``: communication backends; ``needs_backend``: several processes require one; ``only_backend``: it is always this
    one. ``roles``: its tasks are workers, servers and so on. ``for_scripts``: a command gets no packages. ``elastic``: a job
    can continue without some of its nodes.
    """

    name: str
    packages: tuple[str, ...] = ()
    gpu_packages: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    oldest: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)
    backends: tuple[str, ...]
    needs_backend: bool = False
    only_backend: str | None = None
    roles: bool = False
    for_scripts: bool = False
    elastic: bool = False

    def packages_for(self, *, use_gpu: bool, script: bool) -> tuple[str, ...]:
        """Return the packages that an environment needs, the framework first."""
        if self.for_scripts and not script:
            return ()
        return self.gpu_packages if use_gpu and self.gpu_packages else self.packages

    def pinned(self, package: str, version: str) -> str:
        """Return the requirement for a version; one of two parts, such as 2.13, takes any patch of it.

        :raises RequestError: a version that is not supported, or the framework has none.
        """
        if self.end == (0, 0):
            raise RequestError(f"framework_version {version!r}: framework {self.name!r} has no version; use pip_packages")
        match = _VERSION.fullmatch(version)
        if match is None or not self.oldest <= (int(match["major"]), int(match["minor"])) < self.end:
            raise RequestError(f"framework_version {version!r} is not supported for {self.name}; supported: {self._range()}")
        exact = match["patch"] or match["build"]
        return f"{package}=={version}" if exact else f"{package}=={version}.*"

    def _range(self) -> str:
        (major, minor), (end_major, end_minor) = self.oldest, self.end
        return f"{major}.{minor} and later, before {end_major}.{end_minor}, such as {major}.{minor} or {major}.{minor}.0"


FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        framework.name: framework
        for framework in (
            Framework(name="any", backends=("gloo", "nccl", "mpi", "ps")),
            Framework(
                name="pytorch",
                # torch works without numpy, but warns at its import and can't make tensors of arrays
                packages=("torch", "numpy"),
                oldest=(2, 1),
                end=(3, 0),
                backends=("gloo", "nccl", "mpi"),
                needs_backend=True,
                elastic=True,
            ),
            Framework(
                name="tensorflow",
                packages=("tensorflow-cpu",),
                gpu_packages=("tensorflow[and-cuda]",),
                same=("tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu"),
                oldest=(2, 16),
                end=(3, 0),
                backends=("ps", "nccl", "mpi"),
                needs_backend=True,
                roles=True,
            ),
            Framework(name="mpi", packages=("mpi4py",), backends=("mpi",), only_backend="mpi", for_scripts=True),
        )
    }
)
