"""RunStore reads what runs left: records, manifests, files by pattern, verified."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.core.codec import to_data
from muster.core.errors import StoreError, UnknownRun
from muster.core.manifest import Manifest, ManifestFile
from muster.store.s3.errors import PreconditionFailed
from store_server import Store
from sync_process import SyncNode

MakeNode = Callable[..., SyncNode]
CONTENTS = {"outputs/model.pt": b"weights", "outputs/sub/a b.txt": b"a", "outputs2/x": b"x", "logs/ü.log": b"log"}


@pytest.fixture
def committed(node: SyncNode, store: Store) -> Manifest:
    """Return the manifest of a run that was committed, with a file that is no longer what it was."""
    import hashlib

    files = []
    for path, content in CONTENTS.items():
        digest = hashlib.sha256(content).hexdigest()
        store.open().bucket.put(node.keys.file(path), content, sha256=digest)
        files.append(ManifestFile(path=path, size=len(content), sha256=digest, key=node.keys.file(path)))
    manifest = Manifest(run="run-1", generation=1, attempt=1, uri=f"{store.uri}/runs/run-1/g1", files=tuple(files))
    store.open().commit(manifest)
    return manifest


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("outputs/model.pt", ["outputs/model.pt"]),
        ("outputs", ["outputs/model.pt", "outputs/sub/a b.txt"]),
        ("outputs/", ["outputs/model.pt", "outputs/sub/a b.txt"]),
        ("*.log", ["logs/ü.log"]),
        ("outputs/*", ["outputs/model.pt", "outputs/sub/a b.txt"]),
        ("", list(CONTENTS)),
    ],
)
def test_download_takes_a_path_a_folder_or_a_pattern(
    committed: Manifest, store: Store, tmp_path: Path, pattern: str, paths: list[str]
) -> None:
    dest = tmp_path / "to be made" / "$x"
    assert store.open().download("run-1", pattern, dest) == [dest / path for path in paths]
    found = {str(p.relative_to(dest)): p.read_bytes() for p in dest.rglob("*") if p.is_file()}
    assert found == {path: CONTENTS[path] for path in paths}


def test_download_refuses_what_is_not_what_was_committed(committed: Manifest, store: Store, tmp_path: Path) -> None:
    store.open().bucket.put("runs/run-1/g1/outputs/model.pt", b"overwritten")
    with pytest.raises(StoreError, match=r"outputs/model\.pt has 11 bytes .* but 7 bytes .* were stored"):
        store.open().download("run-1", "outputs/model.pt", tmp_path / "dest")
    assert not [p for p in (tmp_path / "dest").rglob("*") if p.is_file()]


def test_download_of_a_run_that_did_not_commit_goes_by_its_record(store: Store, tmp_path: Path) -> None:
    bucket = store.open().bucket
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    file = ManifestFile(path="outputs/x", size=1, sha256=digest, key="runs/failed/g2/outputs/x")
    bucket.put(file.key, b"x")
    bucket.put_json("runs/failed/latest.json", {"generation": 2})
    bucket.put_json("runs/failed/g2/run.json", {"run": "failed", "outputs": [to_data(file)]})
    assert store.open().download("failed", "outputs", tmp_path) == [tmp_path / "outputs/x"]
    assert (tmp_path / "outputs/x").read_bytes() == b"x"


def test_a_path_out_of_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    bucket = store.open().bucket
    file = ManifestFile(path="outputs/../../x", size=1, sha256="", key="k")
    bucket.put_json("runs/evil/latest.json", {"generation": 1})
    bucket.put_json("runs/evil/g1/run.json", {"outputs": [to_data(file)]})
    with pytest.raises(StoreError, match="lies outside the folder"):
        store.open().download("evil", "*", tmp_path)


def test_what_is_not_there_is_named(committed: Manifest, store: Store, tmp_path: Path) -> None:
    run_store = store.open()
    with pytest.raises(UnknownRun, match="there is no run 'nobody' in store s3://"):
        run_store.record("nobody")
    with pytest.raises(UnknownRun, match=r"no file that matches '\*\.onnx'; it has \['outputs/model\.pt'"):
        run_store.download("run-1", "*.onnx", tmp_path)
    with pytest.raises(UnknownRun, match="has no file that matches 'outputs/nope'"):
        run_store.download("run-1", "outputs/nope", tmp_path)
    assert run_store.manifest("run-1", generation=7) is None
    assert run_store.runs() == []


def test_a_commit_is_never_replaced(committed: Manifest, store: Store) -> None:
    store.open().commit(committed)
    other = Manifest(run="run-1", generation=1, attempt=2, uri=committed.uri, files=())
    with pytest.raises(PreconditionFailed, match="is already committed with sha256:"):
        store.open().commit(other)
    assert store.open().manifest("run-1") == committed


def test_a_snapshot_is_stored_once(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "code.tar.gz"
    for content in (b"first", b"other bytes, same digest"):
        archive.write_bytes(content)
        store.open().put_snapshot("sha256:ff00", archive)
    found = store.open().bucket.get("snapshots/ff00.tar.gz")
    assert found is not None
    assert found.body == b"first"


def test_importing_the_store_loads_no_botocore() -> None:
    code = "import sys, muster.store.run_store, muster.registry; print([m for m in sys.modules if m.startswith('boto')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
