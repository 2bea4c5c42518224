"""The committed lock: it covers what pyproject.toml asks for, and names nothing of the machine that wrote it."""

from __future__ import annotations

from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]


def locked() -> dict[str, list[Requirement]]:
    """The lines of the lock by package; a package may have several, for different Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for: to run, to test, and the optional parts that tests use."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in project["project"]["dependencies"] + project["dependency-groups"]["dev"] + extras]


def test_lock_pins_everything_that_pyproject_asks_for() -> None:
    lock = locked()
    for requirement in wanted():
        pins = lock.get(canonicalize_name(requirement.name), [])
        assert pins, f"{requirement.name} is not in requirements.lock; run `make lock`"
        versions = [next(iter(pin.specifier)).version for pin in pins]
        assert all(requirement.specifier.contains(version) for version in versions), (
            f"{requirement}: locked {versions}; run `make lock`"
        )


def test_lock_holds_exact_versions_only() -> None:
    pins = [pin for pins in locked().values() for pin in pins]
    assert all([specifier.operator for specifier in pin.specifier] == ["=="] and pin.url is None for pin in pins)
