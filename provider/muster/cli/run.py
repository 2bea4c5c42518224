"""`muster run`: launches a job file and follows the run to its end; a signal cancels the run at any point."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from muster import client
from muster.cli import CANCELLED, SIGNALS, Interrupted
from muster.cli.watch import CANCEL_REASON, Screen, follow_run


def run_job_file(arguments: argparse.Namespace) -> int:
    """Plan, submit, and wait for the end."""
    prepared = client.prepare(Path(arguments.job), target=arguments.target, store=arguments.store)
    screen = Screen(as_json=arguments.json)
    try:
        submitted = prepared.submit(screen.note)
        screen.note(f"run {submitted.id}")
        if prepared.warning:
            screen.note(prepared.warning, level="warning")
        return follow_run(submitted, screen)
    except Interrupted:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        screen.note(f"cancelling {prepared.context.job_id}")
        prepared.cancel_launched(CANCEL_REASON)
        return CANCELLED
