"""Tracking for training scripts: ``Run.get_context().log(name, value)`` logs metrics to the run, or prints without one.

Standard library only, so that it works in any environment of the ranks; imports nothing of Muster.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS = "MUSTER_METRICS"  # the file to append to; set in a run only
RUN = "MUSTER_RUN"
RANK = "MUSTER_RANK"
OUTPUTS = "MUSTER_OUTPUTS"
LOGS = "MUSTER_LOGS"
CHECKPOINTS = "MUSTER_CHECKPOINTS"

LIST_CHUNK = 250  # values of a list in one line


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that this process is a rank of, or an offline one that prints what is logged; ``id`` is "" then."""

    id: str = ""
    rank: int = 0
    metrics_file: Path | None = None
    clock: Callable[[], float] = field(default=time.time, repr=False)

    @classmethod
    def get_context(cls) -> Run:
        """Return the run of this process; outside a run, an offline one."""
        metrics = os.environ.get(METRICS)
        if not metrics:
            return cls()
        return cls(id=os.environ.get(RUN, ""), rank=int(os.environ.get(RANK) or 0), metrics_file=Path(metrics))

    @property
    def offline(self) -> bool:
        """Return whether there is no run, so that what is logged is printed."""
        return self.metrics_file is None

    @property
    def output_dir(self) -> Path:
        """Return the folder of files to keep; created if missing."""
        return _folder(OUTPUTS, "outputs")

    @property
    def log_dir(self) -> Path:
        """Return the folder of further logs to keep; created if missing."""
        return _folder(LOGS, "logs")

    @property
    def checkpoint_dir(self) -> Path:
        """Return the folder of checkpoints, in which a retry finds those of the attempt before; created if missing."""
        return _folder(CHECKPOINTS, "checkpoints")

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Log a number, or any JSON data; scalars of numpy and torch are taken as numbers.

        A number that JSON does not have is logged as ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.

        :raises TypeError: the value is no such data.
        """
        self._write({"name": str(name), "value": _plain(value), **({} if step is None else {"step": int(step)})})

    def log_list(self, name: str, values: Iterable[Any]) -> None:
        """Log a list of values; the same name again continues it, and a long one takes several lines."""
        plain = [_plain(value) for value in values]
        for start in range(0, len(plain), LIST_CHUNK) or [0]:
            self._write({"name": str(name), "value": plain[start : start + LIST_CHUNK]})

    def log_row(self, name: str, **columns: Any) -> None:
        """Log one row of a table; the same name again adds a row."""
        self.log(name, columns)

    def log_table(self, name: str, table: Mapping[str, Sequence[Any]]) -> None:
        """Log a table by its columns, each a list of the same length.

        :raises ValueError: the columns differ in length.
        """
        columns = {str(column): list(values) for column, values in table.items()}
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{column}: {len(values)}" for column, values in columns.items())
            raise ValueError(f"columns of table {name!r} must have the same length, got {lengths}")
        self.log(name, columns)

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics_file is None:
            step = f" (step {row['step']})" if "step" in row else ""
            print(f"{row['name']}: {json.dumps(row['value'], ensure_ascii=False)}{step}", flush=True)
            return
        line = json.dumps({**row, "t": round(self.clock(), 6)}, allow_nan=False) + "\n"
        _append(self.metrics_file, line.encode())


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _append(path: Path, line: bytes) -> None:
    """Append a line by one write, so that processes and threads which share the file don't mix theirs."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def _plain(value: Any) -> Any:
    """Return JSON data of a value."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of_non_finite(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    for convert in ("item", "tolist"):  # scalars, then arrays, of numpy, torch and their like
        method = getattr(value, convert, None)
        if callable(method) and (convert == "tolist" or getattr(value, "ndim", 0) == 0):
            plain = method()
            return _plain(float(value) if type(plain) is type(value) else plain)  # numpy's longdouble returns itself
    raise TypeError(f"only numbers, texts and JSON data can be logged, got {value!r} of type {type(value).__name__}")


def _name_of_non_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
