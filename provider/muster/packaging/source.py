"""Source: what can be said of a job's files before anything is launched: they are there, they compile, where they come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from muster.core.errors import RequestError
from muster.core.job import TrainingJob

GIT_LIMIT = 10.0  # seconds for one question to git


def check(job: TrainingJob) -> None:
    """Check the source folder and the entry script.

    :raises RequestError: one is missing, the script lies outside of the folder, or it has a syntax error.
    """
    if not job.source_directory:
        return
    folder = Path(job.source_directory)
    if not folder.is_dir():
        raise RequestError(f"source_directory {str(folder)!r} is no folder; it is relative to the file that names it")
    if job.entry_script:
        _check_script(folder, job.entry_script)


def _check_script(folder: Path, name: str) -> None:
    script = folder / name
    if not script.resolve().is_relative_to(folder.resolve()):
        raise RequestError(
            f"entry_script {name!r} lies outside of source_directory {str(folder)!r}; put it inside, all nodes get that"
        )
    if not script.is_file():
        raise RequestError(f"entry_script {name!r} is not in source_directory {str(folder)!r}")
    if script.suffix == ".py":
        _compile(script, name)


def _compile(script: Path, name: str) -> None:
    try:
        compile(script.read_bytes(), name, "exec", dont_inherit=True)
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise RequestError(f"entry_script {name!r} has a syntax error in line {error.lineno}: {error.msg}: {text!r}") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"entry_script {name!r} can't be read as Python: {error}") from None


def requirements(job: TrainingJob) -> tuple[str, ...]:
    """Give all requirement lines of a job, those of its requirements file included.

    :raises RequestError: the file is missing, outside of the source folder, or not readable.
    """
    name = job.environment.requirements_file
    if not name:
        return job.environment.packages
    folder = Path(job.source_directory)
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise RequestError(f"pip_requirements_file {name!r} is not in source_directory {str(folder)!r}")
    lines = (line.partition(" #")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return (*job.environment.packages, *(line for line in lines if line and not line.startswith("#")))


def describe(folder: Path) -> tuple[tuple[str, str], ...]:
    """Give git's remote (without credentials), branch, commit and whether the tree is dirty; nothing outside of git."""
    if not any((parent / ".git").exists() for parent in [folder.resolve(), *folder.resolve().parents]):
        return ()
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ()
    facts = {
        "git_remote": _without_credentials(_git(folder, "config", "--get", "remote.origin.url")),
        "git_branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "git_commit": commit,
        "git_dirty": "true" if _git(folder, "status", "--porcelain", "--", ".") else "false",
    }
    return tuple(facts.items())


def _git(folder: Path, *arguments: str) -> str:
    argv = ["git", "-C", str(folder), *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=GIT_LIMIT, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
