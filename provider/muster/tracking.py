"""What a training script may import: ``Run.get_context().log("loss", 0.3, step=7)``; standard library only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

METRICS_VARIABLE = "MUSTER_METRICS"


class Run:
    """The run that a script is part of; outside of one, what is logged is printed instead."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._metrics = environ.get(METRICS_VARIABLE, "")

    @classmethod
    def get_context(cls) -> Run:
        """Give the run of this process."""
        return cls(os.environ)

    @property
    def id(self) -> str:
        """The run's id; "" outside of one."""
        return self._environ.get("MUSTER_RUN", "")

    @property
    def rank(self) -> int:
        """The rank of this process; 0 outside of a run."""
        return int(self._environ.get("MUSTER_RANK", "0"))

    @property
    def output_dir(self) -> Path:
        """Folder whose files are kept with the run."""
        return Path(self._environ.get("MUSTER_OUTPUTS", "outputs"))

    @property
    def checkpoint_dir(self) -> Path:
        """Folder whose files a retry finds again; write a file elsewhere and rename it, so that it is never half there."""
        return Path(self._environ.get("MUSTER_CHECKPOINTS", "checkpoints"))

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Log a number (also of NumPy or torch, by its ``item()``), or any JSON value.

        :raises TypeError: the value is neither.
        """
        row = {"name": name, "value": _plain(value), "t": round(time.time(), 3)}
        self._write(row if step is None else {**row, "step": step})

    def log_list(self, name: str, value: Iterable[Any]) -> None:
        """Log a list; the same name again continues it."""
        self.log(name, [_plain(item) for item in value])

    def log_row(self, name: str, **columns: Any) -> None:
        """Log one row of a table."""
        self.log(name, {column: _plain(value) for column, value in columns.items()})

    def log_table(self, name: str, value: Mapping[str, Iterable[Any]]) -> None:
        """Log a table, column by column."""
        self.log(name, {column: [_plain(item) for item in items] for column, items in value.items()})

    def _write(self, row: dict[str, Any]) -> None:
        if not self._metrics:
            print(f"{row['name']}: {row['value']}" + (f" (step {row['step']})" if "step" in row else ""), flush=True)
            return
        line = (json.dumps(row) + "\n").encode()
        descriptor = os.open(self._metrics, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)  # one write, so that lines of several threads don't mix
        finally:
            os.close(descriptor)


def _plain(value: Any) -> Any:
    """Give JSON data of a value."""
    if hasattr(value, "item") and callable(value.item):
        return value.item()
    json.dumps(value)
    return value
