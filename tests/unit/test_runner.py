"""What the runner takes from the store: how a run ended."""

from __future__ import annotations

from typing import Any

from muster.core.codec import to_data
from muster.core.handle import JobHandle
from muster.core.manifest import Manifest
from muster.core.state import RunState
from muster.core.store_keys import RunKeys
from muster.core.verdict import Cause, Verdict
from muster.runner import stored_outcome
from store_server import Store

KEYS = RunKeys(job_id="run-1", generation=2)


def record(store: Store, **fields: Any) -> JobHandle:
    """Store a run's record; give the run's handle."""
    data = {"run": "run-1", "generation": 2, "manifest": None, "digest": None, "uri": f"{store.uri}/runs/run-1/g2"}
    store.open().bucket.put_json(KEYS.record, {**data, **fields})
    return JobHandle(job_id="run-1", generation=2, attempt=1, target="rack", plan_digest="sha256:0", store=store.uri)


def test_a_run_that_was_not_committed_ended_as_its_record_says(store: Store) -> None:
    handle = record(store, state="Canceled", verdict=to_data(Verdict(cause=Cause.CANCEL, detail="told to")))
    ended = stored_outcome(handle, store.access)
    assert (ended.state, ended.manifest) == (RunState.CANCELED, None)
    assert ended.verdict is not None


def test_a_committed_manifest_outranks_the_record(store: Store) -> None:
    handle = record(store, state="Canceled", verdict=to_data(Verdict(cause=Cause.CANCEL, detail="told to")), metrics={})
    manifest = Manifest(run="run-1", generation=2, attempt=1, uri=f"{store.uri}/runs/run-1/g2", files=(), metrics={"loss": 1})
    store.open().commit(manifest)
    ended = stored_outcome(handle, store.access)
    assert (ended.state, ended.verdict) == (RunState.COMPLETED, None)
    assert (ended.manifest, ended.digest) == (f"{store.uri}/{KEYS.manifest}", manifest.digest())
    assert ended.metrics == {"loss": 1.0}
