"""Declares the options of a local target."""

from __future__ import annotations

from muster.targets.options import Kind, Option

OPTIONS = (
    Option(
        name="root",
        label="Root folder",
        help="Folder on the worker for jobs, environments and caches. Empty: MUSTER_HOME of the worker, else ~/.muster.",
        kind=Kind.PATH,
        group="Folder",
        example="/data/muster",
    ),
)
