"""The chain of a job's claims: a file each, made once and never changed; for shared folders without reliable locks."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.codec import canonical, from_data
from muster.core.paths import JobPaths
from muster.node.private_files import replace_file, sync_folder, write_scratch

DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class ChainEntry:
    """One claim of the chain, as data. ``base``: the attempt that the batch job was submitted for, whose restarts follow it."""

    claim: dict[str, Any]
    base: int

    @property
    def generation(self) -> int:
        """Return the claim's generation."""
        return int(self.claim["generation"])

    @property
    def attempt(self) -> int:
        """Return the claim's attempt."""
        return int(self.claim["attempt"])


def entries(paths: JobPaths) -> tuple[ChainEntry, ...]:
    """Return every claim of a job, the oldest first; the last one owns the job."""
    files = [paths.claim_chain / name for name in _names(paths)]
    return tuple(from_data(ChainEntry, json.loads(file.read_text(encoding="utf-8"))) for file in files)


def next_number(paths: JobPaths) -> int:
    """Return the number of the next claim."""
    names = _names(paths)
    return int(names[-1][:DIGITS]) + 1 if names else 0


def append(paths: JobPaths, number: int, entry: ChainEntry) -> bool:
    """Append a claim, unless another one has this number; the claim file, which agents read, is replaced after it."""
    paths.claim_chain.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = write_scratch(paths.claim_chain, canonical(entry))
    try:
        won = _link(scratch, paths.claim_chain / f"{number:0{DIGITS}d}.json")
    finally:
        scratch.unlink()
    if won:
        sync_folder(paths.claim_chain)
        replace_file(paths.claim, canonical(entry.claim))
    return won


def _names(paths: JobPaths) -> list[str]:
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(paths.claim_chain)
    return sorted(name for name in names if name.endswith(".json"))


def _link(scratch: Path, name: Path) -> bool:
    """Link a file to its name, which only one can have.

    Over NFS the answer to a link that was made can get lost, and the link be tried again: then the count of names decides.
    """
    try:
        os.link(scratch, name)
    except FileExistsError:
        return scratch.stat().st_nlink == 2
    return True
