"""Reads the file into which ``muster.tracking`` writes a rank's metrics, as it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RankMetrics:
    """The rows that were not read yet; those of an earlier process of this rank were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read_new(self) -> list[dict[str, Any]]:
        """Return the whole rows since the last call; none if the file can't be read, as a rank can do anything with it."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for row in map(_row, whole.splitlines()) if row]


def _row(line: bytes) -> dict[str, Any]:
    """Read one row; return {} for what is no metric."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("name"), str) else {}
