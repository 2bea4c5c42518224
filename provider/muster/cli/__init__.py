"""The `muster` command: arguments and exit codes.

Exit codes: 0 completed, 1 failed, 2 bad request (nothing was launched), 130 cancelled. An error is one line on stderr;
``MUSTER_DEBUG=1`` shows the traceback. A command's imports are done when it runs, because the start of `muster` is part of
every launch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from muster import __version__
from muster.core.errors import MusterError, RequestError, UnknownRun

OK, FAILED, BAD_REQUEST, CANCELLED, BROKEN_PIPE = 0, 1, 2, 130, 141
DEBUG = "MUSTER_DEBUG"
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_EPILOG = """\
exit codes: 0 completed, 1 failed, 2 bad request (nothing was launched), 130 cancelled.
Ctrl-C and SIGTERM cancel the run of `muster run`; a run whose terminal is closed continues: `muster logs -f RUN`.
Store and target are taken from the command line, else the job file, else MUSTER_STORE and MUSTER_TARGET, else muster.toml
(beside the job file or above it, or in ~/.config/muster). Credentials: AWS_* variables or muster.toml."""


class Interrupted(BaseException):
    """Raised on SIGINT or SIGTERM: a KeyboardInterrupt passing through ``exec`` would make Python die of SIGINT at its end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arguments = _parser().parse_args(argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, Interrupted):
        return CANCELLED
    except (MusterError, OSError) as error:
        return _report(error)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise Interrupted; a signal handler."""
    raise Interrupted(signal.Signals(number).name)


def drop_stdout() -> None:
    """Discard later output; its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_line(text: str) -> None:
    """Print one line on stderr, however many the text has."""
    print("muster: " + " ".join(text.split()), file=sys.stderr, flush=True)


def _report(error: Exception) -> int:
    if os.environ.get(DEBUG):
        import traceback

        traceback.print_exception(error)
    error_line(str(error) or type(error).__name__)
    return BAD_REQUEST if isinstance(error, (RequestError, UnknownRun)) else FAILED


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "run":
        for number in SIGNALS:
            signal.signal(number, interrupt)
        from muster.cli.run import run_job_file

        return run_job_file(arguments)
    if arguments.command in ("cancel", "commit"):
        from muster.cli import control

        return control.COMMANDS[arguments.command](arguments)
    if arguments.command == "doctor":
        from muster.cli.doctor import doctor

        return doctor(arguments)
    from muster.cli import read

    return read.COMMANDS[arguments.command](arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        error_line(f"{message}; see {self.prog} --help")
        sys.exit(BAD_REQUEST)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="muster",
        description="Train on many nodes, without Airflow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"muster {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_readers(commands)
    _add_controls(commands)
    _add_doctor(commands)
    return parser


def _command(commands: argparse._SubParsersAction[_Parser], name: str, text: str, *, run: bool = True) -> _Parser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.add_argument("--store", metavar="URI", help="s3://bucket/prefix of the run record")
    if run:
        command.add_argument("run", metavar="RUN", help="id of the run, as `muster run` and `muster ls` print it")
    return command


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = _command(commands, "run", "Run a job file and wait for its end.", run=False)
    run.add_argument("job", metavar="JOB.yaml", help="the operator's parameters and framework: pytorch, tensorflow, mpi or any")
    run.add_argument("--target", metavar="NAME", help="local, or a target of muster.toml")
    run.add_argument("--json", action="store_true", help="one event a line, and last the run, its state, verdict and manifest")


def _add_readers(commands: argparse._SubParsersAction[_Parser]) -> None:
    ls = _command(commands, "ls", "List the runs of a store, newest first.", run=False)
    ls.add_argument("-n", "--limit", type=_positive, default=50, metavar="N", help="at most N runs (50)")
    ls.add_argument("--json", action="store_true", help="one run record a line")
    show = _command(commands, "show", "Show the record of a run.")
    show.add_argument("--json", action="store_true", help="the whole run record")
    logs = _command(commands, "logs", "Print what the ranks of a run wrote, exactly once and in order.")
    logs.add_argument("-f", "--follow", action="store_true", help="continue until the run has ended")
    logs.add_argument("--rank", type=_not_negative, metavar="R", help="only this rank")
    logs.add_argument("--attempt", type=_positive, metavar="A", help="this attempt (default: the last)")
    download = _command(commands, "download", "Fetch files of a run, verified by sha256.")
    download.add_argument("pattern", metavar="PATTERN", help="like 'outputs/*', or the beginning of a path")
    download.add_argument("destination", metavar="DEST", help="folder to put them in")


def _add_controls(commands: argparse._SubParsersAction[_Parser]) -> None:
    cancel = _command(commands, "cancel", "Cancel a run and wait until all of its processes have ended.")
    commit = _command(commands, "commit", "Store and commit the outputs that could not be stored when the run ended.")
    for command in (cancel, commit):
        command.add_argument("--target", metavar="NAME", help="target of the run: local, or a target of muster.toml")


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    doctor = _command(
        commands, "doctor", "Check whether a target and the store can be used; exit 1 if anything is unfit.", run=False
    )
    doctor.add_argument(
        "target",
        nargs="?",
        metavar="CONNECTION_OR_TARGET",
        help="local, a target of muster.toml, or the id of an airflow connection",
    )
    doctor.add_argument("--json", action="store_true", help="one finding a line: what, fine, text, remedy")


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _not_negative(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, got {text!r}")
    return int(text)
