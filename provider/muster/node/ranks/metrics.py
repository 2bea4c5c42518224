"""RankMetrics: the file into which ``muster.tracking`` writes a rank's metrics, read as it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RankMetrics:
    """The rows that were not taken yet; those of an earlier process of this rank have been."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = path.stat().st_size if path.exists() else 0

    def take(self) -> list[dict[str, Any]]:
        """Give the whole rows since the last look; a rank can do anything with its file, so none if it can't be read."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._taken)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._taken += len(whole)
        return [row for row in map(_row, whole.splitlines()) if row]


def _row(line: bytes) -> dict[str, Any]:
    """Read one row; what is no metric is passed over."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("name"), str) else {}
