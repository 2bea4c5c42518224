"""Checks everything that a job relies on, from where this process runs, as one page with a remedy for each finding."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from muster import __version__, targets
from muster.core.errors import MusterError
from muster.core.finding import Finding
from muster.core.store_access import StoreAccess

OLDEST_AIRFLOW = (3, 3)
# the distributions whose versions matter to Muster where they are installed
_PROVIDERS = ("amazon", "docker", "ssh")
_LIBRARIES = ("botocore", "docker", "asyncssh", "uv")
_MARKS = {(True, False): "ok", (True, True): "note", (False, False): "UNFIT", (False, True): "UNFIT"}


@dataclass(frozen=True, kw_only=True)
class Page:
    """The findings about a target, and about the store if one was given; ``observer`` is the user and machine of the check."""

    target: str
    observer: str
    findings: tuple[Finding, ...]

    @property
    def fit(self) -> bool:
        """Return whether no finding is unfit."""
        return all(finding.fine for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the page."""
        yield f"muster doctor: {self.target}, seen from {self.observer}"
        yield ""
        width = max((len(finding.what) for finding in self.findings), default=0)
        for finding in self.findings:
            yield from _lines(finding, width)
        yield ""
        yield self.summary()

    def summary(self) -> str:
        """Return the last line: how many findings are unfit."""
        unfit = sum(not finding.fine for finding in self.findings)
        if not unfit:
            return f"fit: nothing is wrong among {len(self.findings)} things"
        return f"UNFIT: {unfit} of {len(self.findings)} things {'is' if unfit == 1 else 'are'} wrong"


def _lines(finding: Finding, width: int) -> Iterator[str]:
    yield f"{_MARKS[finding.fine, bool(finding.remedy)]:<5}  {finding.what:<{width}}  {finding.text}".rstrip()
    if finding.remedy:
        yield f"{'':<5}  {'':<{width}}  -> {finding.remedy}"


def examine(config: Mapping[str, Any] | str | None, store: str = "", access: StoreAccess | None = None) -> Page:
    """Check the target of a configuration, and the store if one is named, at the same time."""
    name = config if isinstance(config, str) else str((config or {}).get("name") or (config or {}).get("type") or "local")
    with ThreadPoolExecutor(2) as pool:
        target_check = pool.submit(_check_target, config)
        store_check = pool.submit(_check_store, store, access or StoreAccess()) if store else None
        findings = (*_check_versions(), *target_check.result(), *(store_check.result() if store_check else ()))
    return Page(target=name, observer=f"{getpass.getuser()}@{socket.gethostname()}", findings=findings)


def _check_target(config: Mapping[str, Any] | str | None) -> tuple[Finding, ...]:
    try:
        return targets.open_target(config).check()
    except (MusterError, OSError) as error:
        return (Finding.refused("target", error),)


def _check_store(uri: str, access: StoreAccess) -> tuple[Finding, ...]:
    from muster.store.access_check import check_permissions

    try:
        return check_permissions(uri, access)
    except ValueError as error:
        return (Finding.refused("store", error),)


# -- versions on this machine


def _check_versions() -> Iterator[Finding]:
    from muster.packaging import agent_pack

    yield Finding(what="muster", fine=True, text=f"{__version__}, agent {agent_pack.agent_digest(agent_pack.agent_files())}")
    yield Finding(what="python here", fine=True, text=platform.python_version())
    yield _airflow(_version("apache-airflow-core") or _version("apache-airflow"))
    yield _versions("providers", {name: f"apache-airflow-providers-{name}" for name in _PROVIDERS})
    yield _versions("libraries", {name: name for name in _LIBRARIES})


def _versions(what: str, distributions: Mapping[str, str]) -> Finding:
    found = {name: _version(distribution) for name, distribution in distributions.items()}
    return Finding(
        what=what, fine=True, text=", ".join(f"{name} {version}" for name, version in found.items() if version) or "none"
    )


def _airflow(version: str) -> Finding:
    if not version:
        return Finding(what="airflow", fine=True, text="not installed here; the command line needs none")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    oldest = ".".join(map(str, OLDEST_AIRFLOW))
    return Finding.of(
        "airflow", numbers >= OLDEST_AIRFLOW, version, f"update it: {oldest} is the oldest that Muster works with"
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
