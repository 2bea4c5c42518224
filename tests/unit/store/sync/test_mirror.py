"""Files of outputs, logs and ranks are stored under their own names, as they are, whatever they are called or doing."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from muster.core.manifest import ManifestFile
from muster.node.sync_commands import OutputName, UploadFiles, UploadObjects
from muster.store.s3.upload import PART_SIZE, WHOLE_LIMIT
from store_server import Store, wait_until
from sync_process import SyncNode

MakeNode = Callable[..., SyncNode]
NAMES = (
    "plain.txt",
    "with space.txt",
    "quo\"te's.txt",
    "$HOME `x` *?.txt",
    "ünïcödé-🐎.txt",
    "new\nline.txt",
    "per%20cent+plus&amp.txt",
    "back\\slash.txt",
    ".hidden",
    "deep/er/and deeper/x.bin",
)


def files_of(node: SyncNode, patience: float = 60.0) -> dict[str, ManifestFile]:
    return {file.path: file for file in node.call(UploadFiles(timeout=patience))}


def stored(store: Store, file: ManifestFile) -> bytes:
    found = store.open().bucket.get(file.key)
    assert found is not None
    return found.body


def is_right(store: Store, file: ManifestFile, content: bytes) -> bool:
    digest = hashlib.sha256(content).hexdigest()
    announced = store.open().bucket.sha256_of(file.key)
    return stored(store, file) == content and (file.size, file.sha256, announced) == (len(content), digest, digest)


def test_any_name_arrives_with_its_content(node: SyncNode, store: Store) -> None:
    for name in NAMES:
        path = node.paths.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    files = files_of(node)
    assert set(files) == {f"outputs/{name}" for name in NAMES}
    for name in NAMES:
        file = files[f"outputs/{name}"]
        assert file.key == f"runs/run-1/g1/outputs/{name}"
        assert file.node == 0
        assert is_right(store, file, f"content of {name}".encode())
    assert not node.notes


def test_all_folders_and_sizes(node: SyncNode, store: Store) -> None:
    contents = {
        "outputs/empty": b"",
        "logs/train.log": b"step 1\n",
        "ranks/rank-0.log": b"\xff\x00 raw output",
        "outputs/just whole": os.urandom(WHOLE_LIMIT),
        "outputs/just parts": os.urandom(WHOLE_LIMIT + 1),
        "outputs/64 MB": os.urandom(1 << 20) * 64,
    }
    assert 4 * PART_SIZE < 64 << 20
    for path, content in contents.items():
        (node.folder if path.startswith("ranks") else node.paths.work).joinpath(path).write_bytes(content)
    node.paths.rank_log(1).write_bytes(b"")
    files = files_of(node)
    assert set(files) == set(contents)
    for path, content in contents.items():
        assert is_right(store, files[path], content), path


def test_quiet_files_arrive_while_the_run_lives(node: SyncNode, store: Store) -> None:
    (node.paths.outputs / "a.txt").write_text("first")
    bucket = store.open().bucket
    wait_until(lambda: (found := bucket.get(node.keys.file("outputs/a.txt"))) and found.body == b"first")
    (node.paths.outputs / "a.txt").write_text("second")
    wait_until(lambda: (found := bucket.get(node.keys.file("outputs/a.txt"))) and found.body == b"second")


def test_what_is_reported_is_what_is_stored_though_files_change_all_the_time(node: SyncNode, store: Store) -> None:
    done = threading.Event()

    def rewrite() -> None:
        for turn in range(400):
            (node.paths.outputs / "rewritten").write_bytes(f"{turn} ".encode() * 50_000)
            with (node.paths.logs / "growing.log").open("ab") as log:
                log.write(b"line\n" * 10_000)
            (node.paths.outputs / f"moved-{turn % 3}").write_text(str(turn))
            os.replace(node.paths.outputs / f"moved-{turn % 3}", node.paths.outputs / "moved")
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    files = files_of(node)
    wait_until(done.is_set)
    writer.join()
    files = files_of(node)
    for path in ("outputs/rewritten", "logs/growing.log", "outputs/moved"):
        assert is_right(store, files[path], (node.paths.work / path).read_bytes()), path


def test_after_the_final_pass_nothing_is_stored_but_on_demand(node: SyncNode, store: Store) -> None:
    path = node.paths.outputs / "model.pt"
    path.write_text("as in the manifest")
    files = files_of(node)
    path.write_text("changed by a straggler")
    os.utime(path, (1, 1))
    node.log_event("line", i=0)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3)  # longer than the interval between two scans
    assert stored(store, files["outputs/model.pt"]) == b"as in the manifest"


def test_links_inside_are_followed_and_links_outside_are_told(node: SyncNode, store: Store, tmp_path: Path) -> None:
    outputs = node.paths.outputs
    secret = tmp_path / "secret of the host"
    secret.write_text("secret")
    (outputs / "step-10").mkdir()
    (outputs / "step-10" / "model.pt").write_text("weights")
    (outputs / "best").symlink_to("step-10")
    (outputs / "best.pt").symlink_to(outputs / "step-10" / "model.pt")
    (outputs / "out.txt").symlink_to(secret)
    (outputs / "out").symlink_to(tmp_path)
    (outputs / "gone").symlink_to("nowhere")
    (outputs / "step-10" / "loop").symlink_to(outputs)
    os.mkfifo(outputs / "pipe")
    (outputs / os.fsdecode(b"not \xff utf-8")).write_text("x")
    files = files_of(node)
    assert set(files) == {"outputs/step-10/model.pt", "outputs/best/model.pt", "outputs/best.pt"}
    assert all(is_right(store, file, b"weights") for file in files.values())
    for what, why in {
        "outputs/out.txt": "is a link out of its folder",
        "outputs/out ": "is a link out of its folder",
        "outputs/gone": "does not exist",
        "outputs/step-10/loop": "is a link to a folder that it is in",
        "outputs/pipe": "is no regular file",
        "outputs/not ": "has a name that is not UTF-8",
    }.items():
        assert sum(note.startswith(what) and why in note for note in node.notes) == 1, (what, node.notes)


def test_files_of_the_same_name_are_placed_as_told(make_node: MakeNode, store: Store) -> None:
    nodes = [make_node(node=number).start() for number in range(2)]
    for number, node in enumerate(nodes):
        (node.paths.outputs / "model.pt").write_text(f"of node {number}")
    files = [files_of(node)["outputs/model.pt"] for node in nodes]
    assert files[0].key == files[1].key
    names = [OutputName(path="outputs/model.pt", key=key) for key in (files[0].key, files[0].key + ".node1")]
    for _ in range(2):
        for node, name in zip(nodes, names, strict=True):
            node.call(UploadObjects(files=(name,), timeout=20))
    bucket = store.open().bucket
    assert [bucket.get(name.key).body for name in names] == [b"of node 0", b"of node 1"]  # type: ignore[union-attr]
    why = nodes[0].failure(UploadObjects(files=(OutputName(path="outputs/not there", key="k"),), timeout=20))
    assert "outputs/not there can't be stored under k: no such file" in why


def test_a_touched_file_is_not_sent_again(node: SyncNode, store: Store) -> None:
    path = node.paths.outputs / "a"
    path.write_text("same")
    file = files_of(node)["outputs/a"]
    store.open().bucket.delete(file.key)
    os.utime(path, (5, 5))
    assert files_of(node)["outputs/a"] == file
    assert store.open().bucket.get(file.key) is None


def test_many_files_arrive(node: SyncNode) -> None:
    for number in range(300):
        (node.paths.outputs / f"{number:03d}").write_text(str(number))
    assert len(files_of(node)) == 300
