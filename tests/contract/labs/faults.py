"""What harms a node, however its target starts it: a clock that is wrong, a disk that is small, memory that runs out."""

from __future__ import annotations

import dataclasses
import glob
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from muster.core.plan import JobPlan, RankPlan

LIBFAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


def libfaketime() -> Path:
    """Return the library that shows processes another time of day; what measures durations stays as it is."""
    found = glob.glob(LIBFAKETIME)
    if not found:
        pytest.skip(f"no {LIBFAKETIME}; scripts/system.sh installs it (apt-get install libfaketime)")
    return Path(found[0])


def wrong_clock(seconds: int, library: str | Path) -> dict[str, str]:
    """Return the variables under which a program sees a clock that is ``seconds`` off, and its children too."""
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def skewed_python(
    path: Path, python: str, seconds: int, library: str | Path, *, when: str = "true", name: Path | None = None
) -> Path:
    """Write a program that is ``python`` with a wrong clock, where the shell command ``when`` succeeds; gives its path.

    With ``name`` that Python takes itself to be a program of this path, so that what it starts has the wrong clock too.
    """
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in wrong_clock(seconds, library).items())
    path.write_text(
        f"#!/bin/bash\nfor last; do :; done\nif {when}; then unset FAKETIME_SHARED; export {assignments}; fi\n"
        f'exec {f"-a {shlex.quote(str(name))} " if name else ""}{shlex.quote(python)} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def small_disk(folder: Path, size: int) -> None:
    """Put a disk of ``size`` bytes at a folder."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is a tmpfs, which only root can mount")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "muster-tests", folder], check=True)


def remove_disk(folder: Path) -> None:
    """Take a small disk away again."""
    subprocess.run(["umount", "--lazy", folder], check=True)


def short_of_memory(plan: JobPlan, limit: int) -> JobPlan:
    """Return the plan with each rank under a limit of its own, as ``ulimit -v`` sets it; for targets that know no other."""

    def limited(rank: RankPlan) -> RankPlan:
        shell = ("/bin/sh", "-c", f'ulimit -v {limit >> 10} && exec "$@"', "sh")
        return dataclasses.replace(rank, argv=(*shell, *rank.argv))

    nodes = tuple(dataclasses.replace(node, ranks=tuple(map(limited, node.ranks))) for node in plan.nodes)
    return dataclasses.replace(plan, nodes=nodes)
