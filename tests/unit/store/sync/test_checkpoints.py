"""Checkpoints: a marker names only sets that were whole at one moment, and a later attempt gets the last of them back."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

from muster.core.manifest import ManifestFile
from muster.node.sync_commands import CheckStore, RestoreCheckpoints, UploadFiles
from store_server import Store, wait_until
from sync_process import SyncNode, committed, marker

MakeNode = Callable[..., SyncNode]


def write(node: SyncNode, **contents: str) -> None:
    for name, content in contents.items():
        (node.paths.checkpoints / name).write_text(content)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {f"checkpoints/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_quiet_set_is_committed_while_the_run_lives(node: SyncNode, store: Store) -> None:
    (node.paths.checkpoints / "step 1").mkdir()
    (node.paths.checkpoints / "step 1" / "wéights.pt").write_bytes(b"w" * 100_000)
    write(node, latest="step 1", empty="")
    wait_until(lambda: committed(store))
    assert committed(store) == contents_of(node.paths.checkpoints)


def test_the_final_pass_reports_the_set(node: SyncNode, store: Store) -> None:
    write(node, a="1", b="2")
    files = node.call(UploadFiles(timeout=20))
    sha = hashlib.sha256(b"1").hexdigest()
    key = f"runs/run-1/g1/checkpoint-blobs/n0/{sha}"
    assert files[0] == ManifestFile(path="checkpoints/a", size=1, sha256=sha, key=key, node=0)
    assert [file.path for file in files] == ["checkpoints/a", "checkpoints/b"]
    assert committed(store) == {"checkpoints/a": b"1", "checkpoints/b": b"2"}


def test_a_marker_never_names_a_torn_set(node: SyncNode, store: Store) -> None:
    """A writer replaces two files by one rename of their folder's link; the committed pair must always belong together."""
    base, done = node.paths.checkpoints, threading.Event()

    def save() -> None:
        for step in itertools.count():
            if done.is_set():
                return
            for name in ("model", "optimizer"):
                (base / f"{name}.new").write_text(f"{step}" * 20_000)
            for name in ("model", "optimizer"):
                os.replace(base / f"{name}.new", base / name)
            done.wait(0.02 if step % 40 else 3.5)  # saves in bursts, so that some sets are quiet long enough

    writer = threading.Thread(target=save)
    writer.start()
    seen = set()
    try:
        for _ in range(2):
            wait_until(lambda: (pair := _pair(store)) and pair not in seen, 40, 0.2)
            pair = _pair(store)
            assert pair[0] == pair[1]
            seen.add(pair)
    finally:
        done.set()
        writer.join()


def _pair(store: Store) -> tuple[bytes, ...]:
    return tuple(content[:20] for path, content in committed(store).items() if not path.endswith(".new"))


def test_blobs_that_two_markers_no_longer_name_are_deleted(node: SyncNode, store: Store) -> None:
    keys = []
    for step in range(4):
        write(node, model=f"step {step}", config="constant")
        node.call(UploadFiles(timeout=20))
        keys.append({file["path"]: file["key"] for file in (marker(store) or {})["files"]})
    bucket = store.open().bucket
    there = [bucket.get(step["checkpoints/model"]) is not None for step in keys]
    assert there == [False, False, True, True]
    assert bucket.get(keys[0]["checkpoints/config"]) is not None


def test_an_empty_folder_never_replaces_a_committed_set(make_node: MakeNode, store: Store) -> None:
    first = make_node().start()
    write(first, a="1")
    first.call(UploadFiles(timeout=20))
    first.kill()
    second = make_node(attempt=2).start()
    assert second.call(UploadFiles(timeout=20)) == ()
    assert committed(store) == {"checkpoints/a": b"1"}


def test_restore_gives_the_union_with_the_own_version_first(make_node: MakeNode) -> None:
    for number in range(3):
        node = make_node(node=number).start()
        write(node, shared=f"of node {number}", **{f"shard-{number}": f"{number}"})
        (node.paths.checkpoints / "deep er").mkdir()
        (node.paths.checkpoints / "deep er" / "ß").write_text("deep")
        os.utime(node.paths.checkpoints / f"shard-{number}", (1_000_000, 1_000_000 + number))
        node.call(UploadFiles(timeout=20))
    again = make_node(node=1, attempt=2).start()
    assert again.call(RestoreCheckpoints(run="run-1", generation=1, nodes=3)) == 5
    shards = {f"checkpoints/shard-{number}": f"{number}".encode() for number in range(3)}
    others = {"checkpoints/shared": b"of node 1", "checkpoints/deep er/ß": b"deep"}
    assert contents_of(again.paths.checkpoints) == {**shards, **others}
    assert (again.paths.checkpoints / "shard-2").stat().st_mtime == 1_000_002


def test_restore_of_the_newest_takes_what_was_changed_last_and_leaves_what_is_newer(make_node: MakeNode) -> None:
    for number in range(3):
        node = make_node(node=number).start()
        write(node, last=f"of node {number}", **{f"shard-{number}": "committed"})
        os.utime(node.paths.checkpoints / "last", (1_000_000, 1_000_000 + number))
        node.call(UploadFiles(timeout=20))
    again = make_node(node=0, attempt=2).start()
    write(again, **{"shard-1": "newer than what is committed"})
    assert again.call(RestoreCheckpoints(run="run-1", generation=1, nodes=3, newest=True)) == 3
    assert contents_of(again.paths.checkpoints) == {
        "checkpoints/last": b"of node 2",
        "checkpoints/shard-0": b"committed",
        "checkpoints/shard-1": b"newer than what is committed",
        "checkpoints/shard-2": b"committed",
    }


def test_restore_from_another_run_takes_its_newest_generation(make_node: MakeNode, store: Store) -> None:
    for generation in (1, 2):
        earlier = make_node(job="earlier", generation=generation).start()
        earlier.call(CheckStore())
        write(earlier, a=f"generation {generation}")
        earlier.call(UploadFiles(timeout=20))
    node = make_node().start()
    assert node.call(RestoreCheckpoints(run="earlier", generation=0, nodes=1)) == 1
    assert (node.paths.checkpoints / "a").read_text() == "generation 2"
    node.call(UploadFiles(timeout=20))
    assert committed(store) == {"checkpoints/a": b"generation 2"}


def test_restore_of_what_is_not_there(node: SyncNode) -> None:
    assert node.call(RestoreCheckpoints(run="run-1", generation=1, nodes=2)) == 0
    why = node.failure(RestoreCheckpoints(run="nobody", generation=0, nodes=1))
    assert "there is no run 'nobody' in store s3://" in why


def test_a_restore_that_fails_puts_nothing_in_place(make_node: MakeNode, store: Store) -> None:
    first = make_node().start()
    write(first, a="1", b="2")
    files = first.call(UploadFiles(timeout=20))
    store.open().bucket.put(files[1].key, b"bit rot")
    again = make_node(attempt=2).start()
    assert "it was changed since" in again.failure(RestoreCheckpoints(run="run-1", generation=1, nodes=1))
    assert contents_of(again.paths.checkpoints) == {}
