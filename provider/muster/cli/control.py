"""`muster cancel` and `muster commit`: commands on a run that was launched earlier."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from muster import runner, targets
from muster.cli import OK
from muster.cli.watch import Screen, follow_run
from muster.client import SubmittedRun
from muster.settings import load_settings


def cancel_run(arguments: argparse.Namespace) -> int:
    """Cancel a run and release its target; a run that has ended already is no error."""
    target = targets.open_target(load_settings(Path.cwd(), os.environ).choose_target(arguments.target), alone=True)
    run = SubmittedRun(target=target, handle=target.find(arguments.run))
    was_running = run.cancel("cancelled by muster cancel")
    run.release()
    print(f"{arguments.run} was cancelled" if was_running else f"{arguments.run} is not running; nothing to cancel")
    return OK


def commit_run(arguments: argparse.Namespace) -> int:
    """Commit the outputs that could not be stored when the run ended, and wait for the end of it."""
    settings = load_settings(Path.cwd(), os.environ)
    target = targets.open_target(settings.choose_target(arguments.target), alone=True)
    handle = runner.commit_outputs(target, arguments.run, settings.access)
    return follow_run(SubmittedRun(target=target, handle=handle), Screen(as_json=False))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"cancel": cancel_run, "commit": commit_run}
