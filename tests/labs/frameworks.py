"""Frameworks for tests: every environment is resolved and installed once, in a folder that outlives the run.

Muster's own caches name what they keep by its content and lock it while it is made, so all workers and all runs may share them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from muster.core.plan import EnvironmentRef
from muster.packaging.environment import lock, venv

KEPT = Path(__file__).resolve().parents[2] / ".muster" / "tests"
TORCH = ("torch==2.13.0", "numpy")


@dataclass(frozen=True, kw_only=True)
class Frameworks:
    """Environments with frameworks below one folder."""

    root: Path

    def locked(self, *packages: str) -> EnvironmentRef:
        """Return an environment as a list of pinned packages, for a target to install."""
        return lock.lock_packages(packages, python=sys.executable, cache=self.root, log=print)

    def installed(self, *packages: str) -> EnvironmentRef:
        """Return an environment that is installed on this machine, by its interpreter."""
        return EnvironmentRef(interpreter=str(venv.ensure_venv(self.locked(*packages), self.root, print)))


@pytest.fixture(scope="session")
def frameworks() -> Frameworks:
    """Return the environments that all tests share."""
    KEPT.mkdir(parents=True, exist_ok=True)
    return Frameworks(root=KEPT)
