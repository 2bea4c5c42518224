"""Muster as a user runs it: a store, job files, and the command `muster`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import BenchError

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
BUCKET = "bench"
HOME = "home"


@dataclass(frozen=True, kw_only=True)
class Ours:
    """``folder`` has the job files and what Muster keeps, ``endpoint`` is the store; ``target`` in full, None: this machine."""

    folder: Path
    endpoint: str
    target: dict[str, Any] | None = None

    def job(self, name: str, **parameters: Any) -> Path:
        """Write a job file (JSON is YAML) in a folder of its own and give its path."""
        file = self.folder / name / "JOB.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        where = {"compute_target": self.target} if self.target else {}
        file.write_text(json.dumps({"name": name, **where, **parameters}), encoding="utf-8")
        return file

    def argv(self, *words: str) -> list[str]:
        script = Path(sys.executable).parent / "muster"
        return [str(script), *words] if script.exists() else [sys.executable, "-m", "muster.cli", *words]

    def environ(self) -> dict[str, str]:
        """Return what `muster` is told by its environment: store, keys, its own home."""
        told = {
            "MUSTER_STORE": f"s3://{BUCKET}/runs",
            "MUSTER_HOME": str(self.folder / HOME),
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MUSTER_"))}
        return {**others, **told, **KEYS}

    def run(self, job: Path, expect: int = 0) -> str:
        """Run a job to its end and give what was printed."""
        argv = self.argv("run", str(job))
        done = subprocess.run(argv, env=self.environ(), capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != expect:
            raise BenchError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def first_line(self, job: Path, line: str) -> float:
        """Return the seconds from the command to a line that a rank prints; returns at the run's end."""
        argv = self.argv("run", str(job))
        return seconds_to_line(argv, line, self.environ())

    @contextlib.contextmanager
    def running(self, job: Path) -> Iterator[str]:
        """Have a job run inside the block, from its ranks' start on; gives the run's id; cancelled behind it."""
        argv = self.argv("run", "--json", str(job))
        process = subprocess.Popen(argv, env=self.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            events = (json.loads(line) for line in process.stdout)
            started = [event for event in _until_running(events) if event.get("text", "").startswith("run ")]
            yield started[0]["text"].removeprefix("run ")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)


def seconds_to_line(argv: list[str], line: str, environ: Mapping[str, str] | None = None) -> float:
    """Run a command to its end; gives the seconds until it had printed a line that ends like this."""
    began, seen = time.perf_counter(), 0.0
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for text in process.stdout:
            said.append(text)
            if not seen and text.rstrip().endswith(line):
                seen = time.perf_counter()
    if process.returncode != 0 or not seen:
        raise BenchError(f"{' '.join(argv)} ended with {process.returncode}:\n{''.join(said)}")
    return seen - began


def _until_running(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        yield event
        if event.get("state") == "Running":
            return
    raise BenchError("the run ended before its ranks ran")
