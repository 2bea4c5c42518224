"""Runs uv: logs its output line by line, and turns its failures into one line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from muster.core.errors import EnvironmentUnsolvable
from muster.packaging.environment.pip_settings import PipSettings

Log = Callable[[str], None]

LONGEST_REASON = 1000
_NOT_FOR_UV = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TREE = re.compile(r"^[\s\u00d7│├╰─▶]+")
_PIECE = re.compile(r"^(error|cause|hint|caused by):\s*", re.IGNORECASE)
_EMPTY = re.compile(r"^(No solution found when resolving dependencies.*|Failed to (resolve|prepare) .*distributions?):?$")
_NOISE = re.compile(r"^(warning:|Using |Resolved |Prepared |Installed |Audited |Downloading |Building )")


@dataclass(frozen=True, kw_only=True)
class UvResult:
    """Exit code, standard output, and lines of standard error of uv."""

    code: int
    output: str
    messages: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The failure in one line."""
        return reason(self.messages) or f"uv ended with code {self.code}"


def run_uv(
    arguments: Sequence[str], *, settings: PipSettings, environ: Mapping[str, str], folder: Path, given: str, log: Log
) -> UvResult:
    """Run uv in ``folder`` with ``given`` as its input; its messages go to ``log`` at once.

    :raises EnvironmentUnsolvable: there is no uv.
    """
    try:
        process = subprocess.Popen(
            [find_uv(), *arguments, *settings.flags()],
            cwd=folder,
            env=_environ(environ, settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise EnvironmentUnsolvable(f"uv, which builds environments, can't be run: {error}; install the package uv") from error
    with process:
        output, messages = _communicate(process, given, log)
    return UvResult(code=process.returncode, output=output, messages=messages)


def find_uv() -> str:
    """Return the path of uv: the one installed with Muster, else the one on PATH."""
    try:
        import uv

        return uv.find_uv_bin()
    except (ImportError, FileNotFoundError):
        return "uv"


def reason(messages: Sequence[str]) -> str:
    """Return the reason in uv's messages as one line, without ornaments and empty phrases."""
    pieces: list[tuple[str, str]] = []
    for line in map(_plain, messages):
        label = _PIECE.match(line)
        if label:
            pieces.append((label[1].lower(), line[label.end() :]))
        elif pieces and line:
            pieces[-1] = (pieces[-1][0], f"{pieces[-1][1]} {line}")
        elif line:
            pieces.append(("error", line))
    causes = [text for label, text in pieces if label != "hint" and not _EMPTY.match(text)]
    hints = [f" ({text})" for label, text in pieces if label == "hint"]
    whole = ": ".join(cause.rstrip(":") for cause in causes) + "".join(hints)
    return whole if len(whole) <= LONGEST_REASON else f"{whole[:LONGEST_REASON]}…"


def without_credentials(text: str) -> str:
    """Return a text without users and passwords in its URLs."""
    return re.sub(r"(://)[^/\s]*@", r"\1", text)


def _plain(line: str) -> str:
    """Return a line of uv without colours, drawing and progress; a branch of its tree begins a new cause."""
    clean = _COLOURS.sub("", line).strip()
    if not clean or _NOISE.match(clean):
        return ""
    text = _TREE.sub("", clean)
    if "▶" in clean[:4]:
        return f"cause: {text}"
    return f"error: {text}" if clean.startswith("\u00d7") else text


def _environ(environ: Mapping[str, str], settings: PipSettings) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_UV}
    return {**kept, **settings.variables(), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}


def _communicate(process: subprocess.Popen[str], given: str, log: Log) -> tuple[str, tuple[str, ...]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    outputs: list[str] = []
    reader = Thread(target=lambda stream: outputs.append(stream.read()), args=(process.stdout,), daemon=True)
    reader.start()
    try:
        process.stdin.write(given)
        process.stdin.close()
    except BrokenPipeError:  # it failed before it read, and its messages say why
        pass
    messages = []
    for line in process.stderr:
        messages.append(without_credentials(line.rstrip()))
        if messages[-1]:
            log(messages[-1])
    reader.join()
    return "".join(outputs), tuple(messages)
