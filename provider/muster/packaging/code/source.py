"""Checks a job's source folder and entry script, and describes the git commit that the folder is at."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from muster.core.errors import RequestError
from muster.core.job import TrainingJob

GIT_TIMEOUT = 5.0  # seconds; a repository that takes longer is not described
INTERPRETER_TIMEOUT = 10.0

_COMPILE = "import sys; compile(open(sys.argv[1], 'rb').read(), sys.argv[1], 'exec', dont_inherit=True)"


def check_entry(job: TrainingJob) -> None:
    """Check that the job's folder and script exist and the script compiles.

    :raises RequestError: one of them does not.
    """
    folder = Path(job.source_directory)
    if job.source_directory and not folder.is_dir():
        problem = "is no folder" if folder.exists() else "is not there"
        raise RequestError(f"source_directory {job.source_directory!r} {problem}; give the folder with the job's code")
    if job.entry_script:
        _check_script(folder / job.entry_script, job)


def describe(source: Path) -> tuple[tuple[str, str], ...]:
    """Return remote, branch, commit and dirty ("true", "false") of the git repository that a folder is in; () if it is in none.

    ``dirty`` speaks of the folder, not of the rest of the repository. Credentials in the remote's URL are left out.
    """
    if not any((folder / ".git").exists() for folder in (source, *source.absolute().parents)):
        return ()
    return _describe(source)


def _check_script(script: Path, job: TrainingJob) -> None:
    subject = f"entry_script {job.entry_script!r}"
    if not script.is_file():
        problem = "is no file" if script.exists() else "is not there"
        raise RequestError(f"{subject} {problem} in source_directory {job.source_directory!r}; correct its path")
    if not script.resolve().is_relative_to(Path(job.source_directory).resolve()):
        raise RequestError(
            f"{subject} is a link to {str(script.resolve())!r}, outside source_directory; put the file itself there"
        )
    try:
        code = script.read_bytes()
    except OSError as error:
        raise RequestError(f"{subject} can't be read: {error.strerror}; make it readable") from error
    _check_syntax(code, script, job)


def _check_syntax(code: bytes, script: Path, job: TrainingJob) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, job.entry_script, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        if _compiles_elsewhere(script, job.environment.interpreter):
            return
        raise RequestError(f"entry_script has a syntax error: {_where(error, job.entry_script)}") from error


def _where(error: SyntaxError | ValueError, script: str) -> str:
    if not isinstance(error, SyntaxError):
        return f"{script}: {error}"
    line = f":{error.lineno}" if error.lineno else ""
    text = f": {error.text.strip()!r}" if error.text else ""
    return f"{script}{line}: {error.msg}{text}; correct it"


def _compiles_elsewhere(script: Path, interpreter: str) -> bool:
    """Return whether the ranks' interpreter, which may be newer, compiles the script, or is not on this machine."""
    if not interpreter or os.path.realpath(interpreter) == os.path.realpath(sys.executable):
        return False
    try:
        compiled = subprocess.run(
            [interpreter, "-I", "-c", _COMPILE, str(script)], capture_output=True, check=False, timeout=INTERPRETER_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return compiled.returncode == 0


def _describe(source: Path) -> tuple[tuple[str, str], ...]:
    status = _start_git(source, "status", "--porcelain=v2", "--branch", "--", ".")
    remotes = _start_git(source, "config", "--get-regexp", r"^remote\..*\.url$")
    state = _answer(status)
    if state is None:
        _answer(remotes)
        return ()
    headers = dict(line[2:].split(" ", 1) for line in state.splitlines() if line.startswith("# ") and " " in line[2:])
    dirty = any(not line.startswith("#") for line in state.splitlines())
    return (
        ("remote", _remote(_answer(remotes) or "")),
        ("branch", headers.get("branch.head", "")),
        ("commit", headers.get("branch.oid", "")),
        ("dirty", str(dirty).lower()),
    )


def _start_git(source: Path, *arguments: str) -> subprocess.Popen[str] | None:
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    argv = ["git", "-C", str(source), *arguments]
    try:
        return subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:  # no git on this machine
        return None


def _answer(process: subprocess.Popen[str] | None) -> str | None:
    """Return git's output, None if it fails or takes too long."""
    if process is None:
        return None
    with process:
        try:
            output, _ = process.communicate(timeout=GIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    return output if process.returncode == 0 else None


def _remote(listing: str) -> str:
    """Return the URL of ``origin``, else of the first remote, without credentials."""
    urls = dict(line.split(" ", 1) for line in listing.splitlines() if " " in line)
    url = urls.get("remote.origin.url") or next(iter(urls.values()), "")
    return public_url(url)


def public_url(url: str) -> str:
    """Return a URL without user and password; ``git@host:path`` has none."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
