"""Slurm's desk: on the login node, claims and files of jobs on the shared folder, and sbatch; one JSON request, one answer."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from muster.core.codec import to_data
from muster.core.paths import BatchPaths, JobPaths, NodePaths
from muster.node.slurm import claim_chain, rendezvous, submit_outcome
from muster.node.slurm.end_reason import clean

SUBMIT_TIME = 300.0  # seconds for sbatch
ASK_TIME = 60.0
# what a batch job inherits from the login; anything else (credentials of a local submitter above all) stays behind
INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "SLURM_CONF",
    "LD_LIBRARY_PATH",
    "MODULEPATH",
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
LAST_WORDS, LAST_LINES = 4000, 12  # bytes and lines of what a batch job has said
NUMBER, COMMENT = 20, 200  # columns of squeue


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input; it takes no arguments."""
    os.umask(0o077)
    request = json.load(sys.stdin)
    json.dump(DOES[request.pop("do")](**request), sys.stdout)
    return 0


def look(*, root: str, jobs: list[str]) -> dict[str, Any]:
    """Give what is known here of jobs, by id."""
    return {job_id: _known(JobPaths(root=Path(root), job_id=job_id)) for job_id in jobs}


def _known(paths: JobPaths) -> dict[str, Any]:
    """Give a job's owners so far, the next turn, the numbers of its batch jobs, and of the newest attempt age and END."""
    number, entries = claim_chain.next_number(paths), claim_chain.entries(paths)
    known: dict[str, Any] = {
        "number": number,
        "entries": entries,
        "numbers": {},
        "wishes": {},
        "said": {},
        "age": 0.0,
        "end": None,
    }
    for entry in entries:
        generation, base = entry["claim"]["generation"], entry["base"]
        batch = paths.batch(generation, base)
        known["numbers"][batch.root.name], known["wishes"][batch.root.name] = _read(batch.submitted), _read(batch.cancel)
        known["said"][batch.root.name] = _last_words(batch.output)
    if entries:
        claim = entries[-1]["claim"]
        known["age"] = max(0.0, time.time() - paths.claim.stat().st_mtime)
        known["end"] = rendezvous.end_of(paths.node(claim["generation"], claim["attempt"], 0))
    return known


def template(*, root: str, job_id: str, generation: int, base: int) -> dict[str, Any]:
    """Give the assignment that a batch job was submitted with."""
    data: dict[str, Any] = _read(JobPaths(root=Path(root), job_id=job_id).batch(generation, base).template)
    return data


def launch(
    *, root: str, job_id: str, number: int, entry: dict[str, Any], files: dict[str, str], argv: list[str]
) -> dict[str, Any]:
    """Take the turn, unless somebody was faster, and submit; what a refused one leaves is removed.

    Where Slurm may have the job without saying so, the claim stays: else the next submit makes another job of this attempt.
    """
    paths, claim = JobPaths(root=Path(root), job_id=job_id), entry["claim"]
    batch = paths.batch(claim["generation"], entry["base"])
    scratch = paths.job / f".new-{os.urandom(8).hex()}"
    _write_all(scratch, files)
    if not claim_chain.take(paths, number, entry):
        shutil.rmtree(scratch)
        return {"won": False}
    shutil.rmtree(batch.root, ignore_errors=True)  # no claim names it: a submit died before it owned the attempt
    os.rename(scratch, batch.root)
    done = _run([*argv, str(batch.script)], SUBMIT_TIME)
    said = _said(done)
    outcome = submit_outcome.outcome_of(done.returncode, said)
    answer: dict[str, Any] = {"won": True, "outcome": outcome, "said": said}
    if outcome == submit_outcome.TAKEN:
        answer["job"] = done.stdout.split(";")[0].split()[-1]
        _write(batch.submitted, {"job": answer["job"]})
    elif outcome == submit_outcome.UNKNOWN:
        os.utime(paths.claim)  # the time in which a job must be found counts from now
    else:
        withdraw(paths, number, batch, said)
    return answer


def withdraw(paths: JobPaths, number: int, batch: BatchPaths, reason: str) -> None:
    """Leave nothing of a claim that came to no job; of one that follows others, that it was refused."""
    if number == 0 and claim_chain.next_number(paths) == 1:
        shutil.rmtree(paths.job, ignore_errors=True)
        return
    forget_secrets(batch)
    _write(batch.submitted, {"job": "", "refused": reason})


def adopt(*, root: str, job_id: str, comment: str, generation: int, base: int, squeue: str, sacct: str) -> dict[str, Any]:
    """Find a job whose number was never written down, because whoever submitted it heard no answer, by its name and comment.

    Where Slurm can't be asked, ``failed`` says why: then nobody knows whether there is one.
    """
    batch = JobPaths(root=Path(root), job_id=job_id).batch(generation, base)
    fields = f"--Format=JobID:{NUMBER},Comment:{COMMENT}"
    done = _run([squeue, "--noheader", "--states=all", f"--name={job_id}", fields], ASK_TIME)
    if done.returncode:
        return {"job": "", "failed": _said(done)}
    number = _queued(done.stdout, comment) or _accounted(sacct, job_id, comment)
    if number:
        _write(batch.submitted, {"job": number})
    return {"job": number, "failed": ""}


def _queued(out: str, comment: str) -> str:
    found = [line[:NUMBER].strip() for line in out.splitlines() if line[NUMBER:].strip() == comment]
    return found[-1] if found else ""


def _accounted(sacct: str, job_id: str, comment: str) -> str:
    since = "--starttime=now-7days"
    done = _run([sacct, "-X", "-n", "-P", f"--name={job_id}", since, "--format=JobIDRaw,Comment"], ASK_TIME)
    rows = [line.partition("|") for line in done.stdout.splitlines()]
    found = [number for number, _, told in rows if told == comment]
    return found[-1] if found else ""


def wish(*, root: str, job_id: str, generation: int, base: int, attempt: int, why: dict[str, str]) -> dict[str, Any]:
    """Leave the wish to end where the agents look when they are told; one that is there already stays."""
    paths = JobPaths(root=Path(root), job_id=job_id)
    nodes = sorted(paths.attempt(generation, attempt).glob("node-*"))
    for folder in (paths.batch(generation, base).root, *nodes):
        with contextlib.suppress(FileNotFoundError):
            _write(folder / paths.batch(generation, base).cancel.name, why)
    return {"nodes": len(nodes)}


def forget(*, root: str, job_id: str, generation: int, attempt: int) -> dict[str, Any]:
    """Remove the credentials of all attempts up to one; newer ones may be about to start."""
    paths = JobPaths(root=Path(root), job_id=job_id)
    for entry in claim_chain.entries(paths):
        claim = entry["claim"]
        if (claim["generation"], entry["base"]) <= (generation, attempt):
            nodes = paths.attempt(claim["generation"], claim["attempt"]).glob("node-*")
            forget_secrets(paths.batch(claim["generation"], entry["base"]), *(NodePaths(root=folder) for folder in nodes))
    return {}


def forget_secrets(*places: BatchPaths | NodePaths) -> None:
    """Remove the credentials of batch jobs and nodes."""
    for place in places:
        for file in (place.access, place.secrets):
            file.unlink(missing_ok=True)


def remove(*, root: str, job_id: str, number: int) -> dict[str, Any]:
    """Remove all of a job, unless somebody has become its owner meanwhile."""
    paths = JobPaths(root=Path(root), job_id=job_id)
    if claim_chain.next_number(paths) != number:
        return {"removed": False}
    shutil.rmtree(paths.job, ignore_errors=True)
    return {"removed": True}


DOES: Mapping[str, Callable[..., dict[str, Any]]] = MappingProxyType(
    {
        "look": look,
        "template": template,
        "launch": launch,
        "adopt": adopt,
        "wish": wish,
        "forget": forget,
        "remove": remove,
    }
)

# -- small things


def _run(argv: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in clean(os.environ).items() if name in INHERITED + PROXIES or name.startswith("LC_")}
    nothing = subprocess.DEVNULL
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=limit, check=False, env=env, stdin=nothing
        )
    except FileNotFoundError:
        text = f"there is no {argv[0]} on this machine's PATH; name the folder of Slurm's commands by bin"
        return subprocess.CompletedProcess(argv, 127, "", text)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, submit_outcome.TIMED_OUT, "", f"{argv[0]} did not end within {limit:g} s")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _last_words(log: Path) -> str:
    """Give the end of what a batch job has said, in one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_WORDS))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in lines[-LAST_LINES:] if line.strip())


def _write(file: Path, data: Any) -> None:
    scratch = file.with_name(f".new-{os.urandom(8).hex()}")
    scratch.write_text(json.dumps(to_data(data)), encoding="utf-8")
    os.replace(scratch, file)


def _write_all(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for name, content in files.items():
        (folder / name).write_bytes(base64.b64decode(content))
