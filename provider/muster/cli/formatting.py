"""Formats events and run records for a person."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muster.core import event
from muster.core.event import Event

PHASES = ("preparing", "starting", "running", "finalizing")
HERE = -1  # node number in events of the command itself


def event_line(item: Event) -> str | None:
    """Return the line of an event; None for events that are not shown."""
    if item.kind == event.LINE:
        return f"[node {item.node} rank {item.data['rank']}] {item.data['text']}"
    if item.kind == event.STATE:
        reason = f": {item.data['reason']}" if item.data.get("reason") else ""
        return f"[muster] {item.data['state']}{reason}"
    if item.kind == event.NOTE:
        return f"[{'muster' if item.node == HERE else f'node {item.node}'}] {item.data['text']}"
    if item.kind == event.METRIC:
        return _metric_line(item)
    return None


def _metric_line(item: Event) -> str:
    step = item.data.get("step")
    at = "" if step is None else f" at step {step}"
    return f"[node {item.node} rank {item.data.get('rank')}] {item.data['name']} = {item.data['value']}{at}"


def duration(seconds: float) -> str:
    """Return ``4.2s``, ``3m07s`` or ``2h05m``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def moment(seconds: float | None) -> str:
    """Return a time in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def format_size(count: int) -> str:
    """Return ``812 B``, ``3.1 MB``."""
    value, units = float(count), iter(("B", "KB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return the lines of a table whose first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def run_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a run's row of `muster ls`."""
    return (str(record["run"]), str(record["state"]), _shape(record), moment(record.get("created")), _age(record))


RUN_HEAD = ("RUN", "STATE", "NODES", "CREATED", "TOOK")


def _shape(record: Mapping[str, Any]) -> str:
    """Return ``nodes x ranks per node``, or ``ranks on nodes`` if nodes have different numbers of ranks."""
    nodes = len(record.get("host_folders") or record.get("nodes") or ())
    on = [rank.get("node") for rank in record.get("ranks") or ()]
    each = {on.count(node) for node in on}
    return f"{len(on)} on {nodes}" if len(each) > 1 else f"{nodes}x{on.count(0)}"


def _age(record: Mapping[str, Any]) -> str:
    created, ended = record.get("created"), record.get("ended")
    return duration(ended - created) if created and ended else "-"


def record_lines(record: Mapping[str, Any]) -> Iterable[str]:
    """Return the lines that `muster show` prints."""
    yield f"{record['run']}  {record['state']}"
    verdict = record.get("verdict")
    if verdict:
        yield f"  {verdict.get('summary') or verdict.get('detail')}"
    for name, value in _facts(record):
        if value:
            yield f"  {name + ':':<13} {value}"
    yield from _nodes(record)
    yield from (f"  file {f['path']}  {format_size(f['size'])}" for f in record.get("outputs") or ())


def _lost(entry: Mapping[str, Any]) -> str:
    back = f", back {moment(entry['back'])}" if entry.get("back") else ""
    return f"node {entry['node']} ({entry['host']}) {moment(entry['at'])}{back}"


def _facts(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    environment = record.get("environment") or {}
    yield "generation", f"{record['generation']}, attempt {record.get('attempt')}"
    yield "created", moment(record.get("created"))
    yield "ended", f"{moment(record.get('ended'))} ({_age(record)})" if record.get("ended") else ""
    times = record.get("times") or {}
    yield "times", ", ".join(f"{name} {duration(times[name])}" for name in PHASES if name in times)
    yield "environment", environment.get("digest") or environment.get("interpreter") or ""
    yield "snapshot", record.get("snapshot") or ""
    yield "metrics", ", ".join(f"{name}={value:g}" for name, value in (record.get("metrics") or {}).items())
    yield "manifest", record.get("manifest") or ""
    yield "lost", "; ".join(map(_lost, record.get("lost") or ()))


def _nodes(record: Mapping[str, Any]) -> Iterable[str]:
    hosts = {node.get("node"): node.get("host", "") for node in record.get("nodes") or ()}
    for rank in record.get("ranks") or ():
        node = f"node {rank['node']} {hosts.get(rank['node'], '')}".rstrip()
        role = f" ({rank['role']})" if rank.get("role") not in (None, "worker") else ""
        yield f"  rank {rank['rank']}{role} on {node}: {_ending(rank)}"


def _ending(rank: Mapping[str, Any]) -> str:
    if rank.get("signal") is not None:
        return f"ended by signal {rank['signal']}"
    if rank.get("exit_code") is not None:
        return f"exit {rank['exit_code']}"
    return "running" if rank.get("pid") else "not started"
