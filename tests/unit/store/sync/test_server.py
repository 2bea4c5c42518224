"""The sync process answers the agent: with the store there, away and refusing, and with the agent gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.core.errors import MusterError, StoreUnusable
from muster.core.manifest import Manifest, ManifestFile
from muster.core.store_access import StoreAccess
from muster.node.rpc import Request
from muster.node.sync_commands import (
    CheckStore,
    CommitManifest,
    Finish,
    OutputName,
    PutRecord,
    UploadFiles,
    UploadObjects,
)
from muster.store.run_store import RunStore
from muster.store.s3.bucket import Bucket, Stored
from muster.store.s3.errors import StoreUnavailable
from store_server import Store, wait_until
from sync_process import SyncNode

MakeNode = Callable[..., SyncNode]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def manifest_of(node: SyncNode, sha256: str = "ab") -> Manifest:
    file = ManifestFile(path="outputs/model.pt", size=1, sha256=sha256, key="k")
    uri = f"{node.uri}/{node.keys.root}"
    return Manifest(run=node.job, generation=node.generation, attempt=1, uri=uri, files=(file,), metrics={"accuracy": 1})


# -- check


def test_check_makes_the_generation_the_newest_and_never_lowers_it(make_node: MakeNode, store: Store) -> None:
    for generation in (2, 3, 1):
        make_node(generation=generation).start().call(CheckStore())
    assert store.open().generation("run-1") == 3


def test_check_lets_the_snapshot_follow_once(node: SyncNode, store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "code of the job.tar.gz"
    archive.write_bytes(b"packed code")
    node.call(CheckStore(snapshot="sha256:12ab", archive=str(archive)))
    node.call(UploadFiles(timeout=20))
    stored = store.open().bucket.get("snapshots/12ab.tar.gz")
    assert stored is not None
    assert stored.body == b"packed code"


def refusals(store: Store, silent: str) -> dict[str, tuple[str, StoreAccess, str]]:
    """Return for each kind of refusal the store, the access and the words that the one line must have."""
    bucket, endpoint, uri = store.server.bucket, store.server.endpoint, store.uri

    def at(url: str) -> StoreAccess:
        return replace(store.access, endpoint_url=url)

    refused = "store s3://b/p: http://127.0.0.1:1 can't be reached: connection refused; check endpoint_url"
    no_secret = replace(store.access, secret_key="wrong-secret-key")
    no_key = replace(store.access, access_key="nobody")
    return {
        "unreachable": ("s3://b/p", at("http://127.0.0.1:1"), refused),
        "no such host": ("s3://b/p", at("http://no-such-host.invalid:9"), "http://no-such-host.invalid:9 can't be reached"),
        "no URL": ("s3://b/p", at("nonsense"), "nonsense"),
        "silent": (uri, at(silent), "did not answer within"),
        "wrong secret": (uri, no_secret, "the secret key does not belong to access key test…; check the secret key"),
        "unknown key": (uri, no_key, f"{endpoint} does not know access key nobody; check the access key"),
        "no bucket": ("s3://not-there/p", store.access, f"bucket 'not-there' does not exist at {endpoint}; create it"),
        "bad bucket": (f"s3://{bucket} /p", store.access, "Invalid bucket name"),
    }


AWAY = ("unreachable", "no such host", "silent")  # what may pass
KINDS = ("unreachable", "no such host", "no URL", "silent", "wrong secret", "unknown key", "no bucket", "bad bucket")


@pytest.mark.parametrize("kind", KINDS)
def test_check_names_what_is_wrong_in_one_line_within_seconds(
    make_node: MakeNode, store: Store, silent_server: str, kind: str
) -> None:
    uri, access, words = refusals(store, silent_server)[kind]
    began = time.monotonic()
    node = make_node(uri=uri, access=access).start()
    why = node.failure(CheckStore())
    assert time.monotonic() - began < 60
    assert words in why
    assert "\n" not in why
    assert access.secret_key not in why + node.message() + "".join(node.notes)
    with pytest.raises(MusterError) as raised:
        RunStore(uri, access).check()
    assert isinstance(raised.value, StoreUnavailable if kind in AWAY else StoreUnusable)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_store_that_was_away_for_a_moment_passes_the_check(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [StoreUnavailable("503 Slow Down")] * 2
    get = Bucket.get

    def away_at_first(bucket: Bucket, key: str, start: int = 0) -> Stored | None:
        if failures:
            raise failures.pop()
        return get(bucket, key, start)

    monkeypatch.setattr(Bucket, "get", away_at_first)
    store.open().check()
    assert not failures


def test_check_passes_where_the_store_can_be_used(store: Store) -> None:
    store.open().check()


def test_an_address_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(StoreUnusable, match=r"store must look like s3://bucket/prefix, got '/tmp/x'"):
        RunStore("/tmp/x", store.access)


# -- record, commit, finish


def test_the_newest_record_is_stored_and_listed(node: SyncNode, make_node: MakeNode, store: Store) -> None:
    other = make_node(job="run-2").start()
    other.call(CheckStore())
    other.send(PutRecord(record={"run": "run-2", "created": time.time() + 100, "state": "Running"}))
    other.call(Finish(timeout=20))
    for number in range(50):
        node.send(PutRecord(record={"run": "run-1", "created": time.time(), "state": "Running", "number": number}))
    node.call(Finish(timeout=20))
    run_store = store.open()
    assert run_store.record("run-1")["number"] == 49
    assert [record["run"] for record in run_store.runs(10)] == ["run-2", "run-1"]
    assert [record["run"] for record in run_store.runs(1)] == ["run-2"]


def test_commit_happens_once_and_may_be_repeated(node: SyncNode, store: Store) -> None:
    manifest = manifest_of(node)
    uri = f"{store.uri}/runs/run-1/g1/manifest.json"
    for _ in range(2):
        assert node.call(CommitManifest(manifest=manifest, timeout=20)) == uri
    kept = store.open().manifest("run-1")
    assert kept is not None
    assert kept.digest() == manifest.digest()
    why = node.failure(CommitManifest(manifest=manifest_of(node, sha256="cd"), timeout=20))
    assert "is already committed with sha256:" in why
    assert store.open().manifest("run-1") == kept


# -- outage


@pytest.fixture
def outage(store: Store) -> Iterator[Store]:
    """Yield a store whose server the test may stop; it runs again afterwards."""
    yield store
    store.server.start()


def test_all_arrives_once_the_store_is_back(node: SyncNode, outage: Store) -> None:
    node.log_event("line", i=0)
    wait_until(lambda: len(list(outage.open().events("run-1", 1, 1, 0))) == 1)
    outage.server.stop()
    for i in range(1, 2000):
        node.log_event("line", i=i, text="x" * 300)
    (node.paths.outputs / "model.pt").write_bytes(b"weights")
    node.send(PutRecord(record={"run": "run-1", "created": 1.0, "state": "Running"}))
    wait_until(lambda: any("can't be reached" in note for note in node.notes))
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGTERM)
    outage.server.start()
    node.call(UploadFiles(timeout=60))
    node.call(Finish(timeout=60))
    events = [event for _, event in outage.open().events("run-1", 1, 1, 0)]
    assert [event.data["i"] for event in events] == list(range(2000))
    assert outage.open().record("run-1")["state"] == "Running"
    lost = sum("can't be reached" in note for note in node.notes)
    assert lost == sum("the store is back after" in note for note in node.notes)
    assert 1 <= lost <= 2, "once for each outage; a server that starts may answer, and not at the next request"


def test_patience_is_kept_while_the_store_is_away(node: SyncNode, outage: Store) -> None:
    outage.server.stop()
    (node.paths.outputs / "model.pt").write_bytes(b"weights")
    requests: list[Request[Any]] = [
        UploadFiles(timeout=2.0),
        UploadObjects(files=(OutputName(path="outputs/model.pt", key="k"),), timeout=2.0),
        CommitManifest(manifest=manifest_of(node), timeout=2.0),
    ]
    for request in requests:
        began = time.monotonic()
        assert "can't be reached: connection refused" in node.failure(request)
        assert time.monotonic() - began < 60
    outage.server.start()
    node.call(UploadFiles(timeout=60))
    node.call(CommitManifest(manifest=manifest_of(node), timeout=60))


def test_finish_gives_up_after_its_patience_and_ends(node: SyncNode, outage: Store) -> None:
    node.log_event("line", i=0)
    outage.server.stop()
    node.log_event("line", i=1)
    assert node.failure(Finish(timeout=2.0))
    assert node.wait() == 0


def test_renewed_credentials_are_taken_up(make_node: MakeNode, store: Store) -> None:
    node = make_node(access=store.access).start()
    node.call(CheckStore())
    node.write_access(replace(store.access, secret_key="expired"))
    (node.paths.outputs / "a").write_text("a")
    assert node.failure(UploadFiles(timeout=1))
    node.write_access(store.access)
    node.call(UploadFiles(timeout=30))


def test_a_store_that_refused_the_run_is_not_tried_again(make_node: MakeNode, store: Store) -> None:
    node = make_node(access=replace(store.access, secret_key="wrong")).start()
    assert "secret key" in node.failure(CheckStore())
    node.send(PutRecord(record={"run": "run-1", "state": "Failed"}))
    node.call(Finish(timeout=0.0))
    assert node.wait() == 0
    assert node.notes == []


# -- the agent is gone


def test_when_the_agent_dies_what_there_is_is_stored_and_the_record_concluded(node: SyncNode, store: Store) -> None:
    node.send(
        PutRecord(record={"run": "run-1", "created": 1.0, "state": "Running", "ended": None, "attempts": [{"attempt": 1}]})
    )
    (node.paths.outputs / "model.pt").write_bytes(b"weights")
    (node.paths.logs / "train.log").write_text("step 1")
    node.paths.rank_log(0).write_text("hello")
    node.log_event("line", i=0)
    node.hang_up()
    verdict = {"cause": "node", "detail": "the agent of node 0 died"}
    node.log_bytes(b'{"half a line\n')
    node.log_event("end", state="Failed", verdict=verdict, manifest=None)
    node.log_event("node_end")
    assert node.wait() == 0
    run_store = store.open()
    events = [event.kind for _, event in run_store.events("run-1", 1, 1, 0)]
    assert events == ["line", "note", "end", "node_end"]
    for path in ("outputs/model.pt", "logs/train.log", "ranks/rank-0.log"):
        assert run_store.bucket.get(node.keys.file(path)) is not None
    record = run_store.record("run-1")
    assert (record["state"], record["verdict"], record["attempts"][0]["state"]) == ("Failed", verdict, "Failed")
    assert record["ended"] > 1


# -- packed


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Return a copy of what travels to the nodes: core, node and store, and nothing else."""
    package = Path(muster.__file__).parent
    copy = tmp_path / "agent's folder" / "lib" / "muster"
    for part in ("core", "node", "store"):
        shutil.copytree(package / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package / "__init__.py", copy)
    return copy


def test_it_runs_from_the_packed_copy(make_node: MakeNode, packed: Path) -> None:
    node = make_node(entry=packed / "node" / "start.py").start()
    node.call(CheckStore())
    node.call(Finish(timeout=20))


def test_where_boto3_is_missing_the_error_says_so(make_node: MakeNode, packed: Path) -> None:
    (packed.parent / "botocore.py").write_text("raise ModuleNotFoundError(\"No module named 'botocore'\")")
    node = make_node(entry=packed / "node" / "start.py").start()
    assert "No module named 'botocore'; install boto3" in node.failure(CheckStore())
