"""What is asked of a run that was started earlier: cancel, commit."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from muster import runner, targets
from muster.cli import OK
from muster.cli.settings import load
from muster.cli.watch import Screen, watch


def cancel(arguments: argparse.Namespace) -> int:
    """End a run and let its target go of what it left; fine if it had ended already."""
    target = targets.open_target(load(Path.cwd(), os.environ).choose_target(arguments.target), alone=True)
    handle = target.find(arguments.run)
    hit = runner.cancel(target, handle, handle.generation, "cancelled by muster cancel")
    runner.release(target, handle)
    print(f"{arguments.run} was cancelled" if hit else f"{arguments.run} is not running; nothing to cancel")
    return OK


def commit(arguments: argparse.Namespace) -> int:
    """Store what could not be stored, and wait for it."""
    settings = load(Path.cwd(), os.environ)
    target = targets.open_target(settings.choose_target(arguments.target), alone=True)
    handle = runner.commit(target, arguments.run, settings.access)
    screen = Screen(handle.job_id, as_json=False)
    return watch(target, handle, screen)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"cancel": cancel, "commit": commit}
