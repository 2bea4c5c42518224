"""`muster cancel` and `muster commit`: commands on a run that was launched earlier."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from muster import runner, targets
from muster.cli import OK
from muster.cli.watch import Screen, watch
from muster.client import SubmittedRun
from muster.settings import load


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel a run and release its target; a run that has ended already is no error."""
    target = targets.open_target(load(Path.cwd(), os.environ).choose_target(arguments.target), alone=True)
    run = SubmittedRun(target=target, handle=target.find(arguments.run))
    was_running = run.cancel("cancelled by muster cancel")
    run.release()
    print(f"{arguments.run} was cancelled" if was_running else f"{arguments.run} is not running; nothing to cancel")
    return OK


def commit(arguments: argparse.Namespace) -> int:
    """Commit the outputs that could not be stored when the run ended, and wait for the end of it."""
    settings = load(Path.cwd(), os.environ)
    target = targets.open_target(settings.choose_target(arguments.target), alone=True)
    handle = runner.commit(target, arguments.run, settings.access)
    return watch(SubmittedRun(target=target, handle=handle), Screen(as_json=False))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"cancel": cancel, "commit": commit}
