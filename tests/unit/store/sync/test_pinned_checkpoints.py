"""Checkpoints that are changed while they are stored: replaced ones are committed as they were, half written ones never."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from muster.core.paths import NodePaths
from muster.core.store_keys import RunKeys
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import FileChanged, StoreUnavailable
from muster.store.sync import checkpoints
from muster.store.sync.checkpoints import CheckpointSync
from store_server import Store, wait_until
from sync_process import SyncNode, committed

SMALL, IN_PARTS = 100_000, 9 << 20
KEYS = RunKeys(job_id="run-1", generation=1)
BLOBS = "checkpoint-blobs"


class Meddling(Bucket):
    """A real bucket that does something just before a request."""

    before: Callable[[str], None] = staticmethod(lambda key: None)

    def at(self, key: str) -> dict[str, str]:
        self.before(key)
        return super().at(key)


@dataclass
class Rig:
    """The checkpoints of one node in this process, so that a test can meddle at a certain moment."""

    store: Store
    paths: NodePaths
    bucket: Meddling = field(init=False)

    def __post_init__(self) -> None:
        self.paths.checkpoints.mkdir(parents=True)
        self.bucket = Meddling(self.store.uri, lambda: self.store.access)

    @property
    def folder(self) -> Path:
        return self.paths.checkpoints

    def sync(self) -> CheckpointSync:
        return CheckpointSync(self.bucket, KEYS, self.paths, node=0, attempt=1, report=lambda seen: None)

    def write(self, step: int, *names: str, size: int = SMALL) -> None:
        for name in names:
            (self.folder / name).write_bytes(content(step, size))

    def once(self, part: str, meddle: Callable[[], None]) -> None:
        """Have something done before the first request for a key with ``part`` in it."""
        done = threading.Event()

        def before(key: str) -> None:
            if part in key and not done.is_set():
                done.set()
                meddle()

        self.bucket.before = before


@pytest.fixture
def rig(store: Store, tmp_path: Path) -> Rig:
    return Rig(store, NodePaths(root=tmp_path / "node"))


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "QUIET", 0.3)
    monkeypatch.setattr(checkpoints, "OVERDUE", 1.0)


def content(step: int, size: int = SMALL) -> bytes:
    return b"%d" % (step % 10) * size


def replace(file: Path, new: bytes) -> None:
    beside = file.with_suffix(".new")
    beside.write_bytes(new)
    os.replace(beside, file)


def replace_each(folder: Path, new: bytes, *names: str) -> None:
    for name in names:
        replace(folder / name, new)


@pytest.mark.parametrize("size", [SMALL, IN_PARTS])
@pytest.mark.parametrize("final", [False, True])
def test_a_set_that_is_replaced_while_it_is_stored_is_committed_as_it_was(
    rig: Rig, store: Store, size: int, final: bool
) -> None:
    rig.write(1, "model", "optimizer", size=size)
    rig.once(BLOBS, lambda: replace_each(rig.folder, content(2), "model", "optimizer"))
    sync = rig.sync()
    sync.sync(final)
    assert committed(store) == {"checkpoints/model": content(1, size), "checkpoints/optimizer": content(1, size)}
    sync.sync(final)
    assert committed(store) == {"checkpoints/model": content(2), "checkpoints/optimizer": content(2)}
    assert not rig.paths.pinned.exists()


def test_a_link_that_is_pointed_elsewhere_is_stored_as_it_was(rig: Rig, store: Store) -> None:
    rig.write(1, "step-1")
    rig.write(2, "step-2")
    (rig.folder / "last").symlink_to("step-1")

    def point_elsewhere() -> None:
        (rig.folder / "last.new").symlink_to("step-2")
        os.replace(rig.folder / "last.new", rig.folder / "last")
        (rig.folder / "step-1").unlink()

    rig.once(BLOBS, point_elsewhere)
    rig.sync().sync(final=False)
    steps = {"last": 1, "step-1": 1, "step-2": 2}
    assert committed(store) == {f"checkpoints/{name}": content(step) for name, step in steps.items()}


def test_a_file_that_is_written_while_it_is_stored_is_not_committed_until_it_rests(rig: Rig, store: Store) -> None:
    rig.write(1, "model", "optimizer")
    rig.once(BLOBS, lambda: rig.write(2, "model", "optimizer"))
    sync = rig.sync()
    sync.sync(final=False)
    assert committed(store) == {}
    sync.sync(final=False)
    assert committed(store) == {"checkpoints/model": content(2), "checkpoints/optimizer": content(2)}


def test_a_last_pass_says_which_file_is_being_changed(rig: Rig) -> None:
    rig.write(1, "model")
    rig.once(BLOBS, lambda: rig.write(2, "model"))
    with pytest.raises(FileChanged, match=r"^checkpoints/model is being changed$"):
        rig.sync().sync(final=True)


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_no_links_can_be_made_the_files_themselves_are_stored(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*names: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", refuse)
    rig.write(1, "model")
    rig.once(BLOBS, lambda: replace(rig.folder / "model", content(2)))
    sync = rig.sync()
    sync.sync(final=False)
    assert committed(store) == {}
    sync.sync(final=False)
    assert committed(store) == {"checkpoints/model": content(2)}


def test_links_are_removed_after_an_error_and_after_a_killed_process(rig: Rig) -> None:
    rig.paths.pinned.mkdir()
    rig.write(1, "model")
    os.link(rig.folder / "model", rig.paths.pinned / "0")
    sync = rig.sync()
    assert not rig.paths.pinned.exists()
    rig.once(BLOBS, lambda: _fail(rig.paths.pinned))
    with pytest.raises(StoreUnavailable):
        sync.sync(final=False)
    assert not rig.paths.pinned.exists()
    assert (rig.folder / "model").stat().st_nlink == 1


def _fail(held: Path) -> None:
    raise StoreUnavailable(f"the store is away while {[link.name for link in held.iterdir()]} are held")


def test_a_marker_that_the_store_did_not_take_is_written_again(rig: Rig, store: Store) -> None:
    sync = rig.sync()
    for step in (1, 2):
        rig.write(step, "model")
        if step == 2:
            rig.once(KEYS.checkpoint_marker(0), lambda: _fail(rig.paths.pinned))
            with pytest.raises(StoreUnavailable):
                sync.sync(final=False)
        sync.sync(final=False)
        assert committed(store) == {"checkpoints/model": content(step)}


def test_nobody_waits_for_files_to_rest_once_the_end_is_near(rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "QUIET", 600.0)
    rig.write(1, "model")
    sync = rig.sync()
    waiting = threading.Thread(target=sync.sync, args=(False,), daemon=True)
    waiting.start()
    wait_until(rig.paths.pinned.exists)
    sync.flush()
    waiting.join(120)
    assert not waiting.is_alive()
    assert committed(store) == {}
    sync.sync(final=True)
    assert committed(store) == {"checkpoints/model": content(1)}


Save = Callable[[Path, int, Callable[[], object]], None]


@contextmanager
def written(folder: Path, save: Save) -> Iterator[None]:
    """Have checkpoints saved without a rest; ``save`` is given the folder, the step, and a pause for within a step."""
    done = threading.Event()

    def run() -> None:
        for step in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            save(folder, step, lambda: done.wait(0.05))

    writer = threading.Thread(target=run)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def replace_one(folder: Path, step: int, pause: Callable[[], object]) -> None:
    replace(folder / "model", content(step))
    for _ in range(4):
        pause()


def replace_two(folder: Path, step: int, pause: Callable[[], object]) -> None:
    for name in ("model", "optimizer"):
        replace(folder / name, content(step))
        pause()


def write_in_place(folder: Path, step: int, pause: Callable[[], object]) -> None:
    with (folder / "model").open("r+b" if step else "wb", buffering=0) as file:
        for _ in range(2):
            file.write(content(step, SMALL // 2))
            pause()


def write_anew(folder: Path, step: int, pause: Callable[[], object]) -> None:
    (folder / "model").unlink(missing_ok=True)
    write_in_place(folder, 0, pause)


def is_whole(found: dict[str, bytes]) -> bool:
    """Say whether all is of one step, and nothing shorter than it should be."""
    return all(len(body) == SMALL for body in found.values()) and len(set(b"".join(found.values()))) <= 1


def test_a_file_that_is_replaced_all_the_time_is_committed_while_the_run_lives(node: SyncNode, store: Store) -> None:
    with written(node.paths.checkpoints, replace_one):
        wait_until(lambda: committed(store), every=0.2)
    assert set(committed(store)) == {"checkpoints/model"}
    assert is_whole(committed(store))
    wait_until(lambda: not node.paths.pinned.exists())


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("save", [write_in_place, write_anew, replace_two])
def test_what_never_rests_is_not_committed_half(rig: Rig, store: Store, save: Save) -> None:
    sync = rig.sync()
    with written(rig.folder, save):
        for _ in range(15):
            sync.sync(final=False)
            assert is_whole(committed(store))
    sync.sync(final=False)
    assert committed(store)
    assert is_whole(committed(store))
