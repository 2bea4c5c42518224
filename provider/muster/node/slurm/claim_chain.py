"""Turns: all owners that a job has had, a file each, made once and never changed; for shared folders without reliable locks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from muster.core.paths import JobPaths

DIGITS = 8


def entries(paths: JobPaths) -> list[dict[str, Any]]:
    """Give every entry of a job, the oldest first; the owner's is the last, its claim is under ``claim``."""
    return [json.loads((paths.claim_chain / name).read_text(encoding="utf-8")) for name in _names(paths)]


def next_number(paths: JobPaths) -> int:
    """Give the number of the next turn."""
    names = _names(paths)
    return int(names[-1][:DIGITS]) + 1 if names else 0


def take(paths: JobPaths, number: int, entry: dict[str, Any]) -> bool:
    """Become the owner, unless somebody else has taken this turn; the file that agents look at follows."""
    paths.claim_chain.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = _scratch(paths.claim_chain, entry)
    try:
        won = _link(scratch, paths.claim_chain / f"{number:0{DIGITS}d}.json")
    finally:
        os.unlink(scratch)
    if won:
        os.replace(_scratch(paths.job, entry["claim"]), paths.claim)
    return won


def _names(paths: JobPaths) -> list[str]:
    try:
        names = os.listdir(paths.claim_chain)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(".json"))


def _scratch(folder: Path, content: dict[str, Any]) -> str:
    name = str(folder / f".new-{os.urandom(8).hex()}")
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, sort_keys=True)
    return name


def _link(scratch: str, name: Path) -> bool:
    """Give a file its name, which only one can have.

    Over NFS the answer to a link that was made can get lost, and the link be tried again: then the count of names tells.
    """
    try:
        os.link(scratch, name)
    except FileExistsError:
        return os.stat(scratch).st_nlink == 2
    return True
