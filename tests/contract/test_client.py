"""``muster.run`` and ``muster.submit``: from a script to an outcome, through the local target and a real store."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.core import event
from muster.node import processes
from store_server import Store, wait_until


@pytest.fixture
def job(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the parameters of a job without its command; the store's credentials are in the environment."""
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.access.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.access.secret_key)
    return {"name": "job", "source_directory": "code", "node_count": 2, "store": store.uri, "grace_seconds": 2}


def test_a_run_returns_its_outcome(job: dict[str, Any], store: Store) -> None:
    code = "import pathlib; pathlib.Path('outputs/x').write_text('x')"
    outcome = muster.run({**job, "command": [sys.executable, "-c", code], "node_count": 1})
    assert (outcome.state, outcome.verdict) == (muster.RunState.COMPLETED, None)
    manifest = store.open().manifest(outcome.run, 1)
    assert manifest is not None
    assert [file.path for file in manifest.files if file.path.startswith("outputs/")] == ["outputs/x"]


def test_a_failed_run_is_an_outcome_too(job: dict[str, Any]) -> None:
    outcome = muster.run({**job, "command": [sys.executable, "-c", "raise SystemExit(3)"]}, target={"type": "local"})
    assert outcome.state is muster.RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.exit_code) == (muster.Cause.RANK, 3)


def test_events_are_seen_from_the_first_and_a_run_can_be_cancelled(job: dict[str, Any]) -> None:
    submitted = muster.submit(
        {**job, "command": [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]}
    )
    for item in submitted.events():
        if item.kind == event.LINE:
            break
    assert submitted.cancel()
    assert [item.kind for item in submitted.events()][-1] == event.END
    assert submitted.outcome().state is muster.RunState.CANCELED
    assert submitted.outcome().run == submitted.id
    assert not submitted.cancel()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make SIGINT interrupt, also where the tests run in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_cancels_the_run(job: dict[str, Any], tmp_path: Path, interruptible: None) -> None:
    up = tmp_path / "up"
    code = f"import os, pathlib, time; pathlib.Path({str(up)!r}).write_text(os.environ['MUSTER_RUN']); time.sleep(600)"

    def interrupt() -> None:
        wait_until(lambda: up.exists() and up.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        muster.run({**job, "command": [sys.executable, "-c", code], "node_count": 1})
    assert processes.marked(f"MUSTER_JOB={up.read_text()}/g1/a1") == []


def test_a_wrong_job_is_refused_before_anything_is_launched(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(muster.RequestError, match="unknown parameter 'nodes'"):
        muster.submit({**job, "nodes": 2})
    with pytest.raises(muster.RequestError, match="unknown target 'rack'"):
        muster.submit({**job, "command": ["true"]}, target="rack")
    with pytest.raises(muster.RequestError, match="job: 'aws_conn_id' is a connection of Airflow"):
        muster.submit({**job, "command": ["true"], "aws_conn_id": "my_store"})
    assert not (tmp_path / "home" / "jobs").exists()
