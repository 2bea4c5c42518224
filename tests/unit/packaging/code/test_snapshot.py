"""A source folder as a digest and an archive: what is in it, what is not, and what changes it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.node.host import node_folder
from muster.packaging.code import snapshot, tree

LONG_AGO = 1_600_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    fill(folder, {"train.py": "print(1)\n", "lib/model.py": "x = 1\n"})
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "snapshots"


def fill(folder: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


def age(folder: Path) -> None:
    """Let files look as if they had been written long ago, and wait until that change of theirs is old enough as well."""
    for file in folder.rglob("*"):
        os.utime(file, (LONG_AGO, LONG_AGO), follow_symlinks=False)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the times of files that were changed just now."""
    monkeypatch.setattr(tree, "_TOO_FRESH", -1)


def unpacked(taken: snapshot.Snapshot, into: Path) -> dict[str, str]:
    """Return the files of an archive and their contents."""
    node_folder.unpack_code(taken.archive, into)
    return {str(f.relative_to(into)): f.read_text() for f in sorted(into.rglob("*")) if f.is_file()}


def refusal(source: Path, cache: Path) -> str:
    with pytest.raises(RequestError) as caught:
        snapshot.pack(source, cache)
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*.tar.gz"))
    return str(caught.value)


def test_everything_is_there_again(source: Path, cache: Path, tmp_path: Path) -> None:
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "empty folder").mkdir()
    (source / "link").symlink_to("lib/model.py")
    taken = snapshot.pack(source, cache)
    assert unpacked(taken, tmp_path / "there") == {
        "lib/model.py": "x = 1\n",
        "link": "x = 1\n",
        "run.sh": "#!/bin/sh\n",
        "train.py": "print(1)\n",
    }
    assert (tmp_path / "there" / "link").readlink() == Path("lib/model.py")
    assert os.access(tmp_path / "there" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "there" / "train.py", os.X_OK)
    assert (tmp_path / "there" / "empty folder").is_dir()
    assert (taken.files, taken.size) == (3, 25)
    assert taken.archive == cache / f"{taken.digest.removeprefix('sha256:')}.tar.gz"


def test_it_is_unpacked_into_a_folder_that_has_something(source: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "outputs").mkdir(parents=True)
    node_folder.unpack_code(snapshot.pack(source, cache).archive, tmp_path / "work")
    assert {item.name for item in (tmp_path / "work").iterdir()} == {"outputs", "train.py", "lib"}


def test_the_same_tree_has_the_same_digest_and_archive_wherever_it_is(source: Path, cache: Path, tmp_path: Path) -> None:
    first = snapshot.pack(source, cache)
    shutil.copytree(source, tmp_path / "copy")
    age(tmp_path / "copy")
    second = snapshot.pack(tmp_path / "copy", tmp_path / "other home" / "snapshots")
    assert first.digest == second.digest
    assert first.archive.read_bytes() == second.archive.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: (s / "train.py").write_text("print(2)\n"),
        lambda s: (s / "train.py").chmod(0o755),
        lambda s: (s / "train.py").rename(s / "trained.py"),
        lambda s: (s / "lib" / "model.py").unlink(),
        lambda s: (s / "new").write_text(""),
        lambda s: (s / "link").symlink_to("train.py"),
        lambda s: (s / "folder").mkdir(),
    ],
)
def test_a_change_of_the_tree_changes_the_digest(source: Path, cache: Path, change: object, at_once: None) -> None:
    before = snapshot.pack(source, cache).digest
    change(source)  # type: ignore[operator]
    assert snapshot.pack(source, cache).digest != before


def test_names_that_trip_up_careless_code_travel(weird_tmp_path: Path, cache: Path, tmp_path: Path) -> None:
    fill(weird_tmp_path, {f"{weird_tmp_path.name}/{weird_tmp_path.name}": "x"})
    found = unpacked(snapshot.pack(weird_tmp_path, cache), tmp_path / "there")
    assert found == {f"{weird_tmp_path.name}/{weird_tmp_path.name}": "x"}


def test_a_name_that_is_no_unicode_travels(source: Path, cache: Path, tmp_path: Path) -> None:
    name = b"\xff\xfe"
    (source / os.fsdecode(name)).write_text("x")
    for _ in range(2):
        node_folder.unpack_code(snapshot.pack(source, cache).archive, tmp_path / "there")
    assert (tmp_path / "there" / os.fsdecode(name)).read_text() == "x"


# -- what stays out

ALWAYS_OUT = [".git/config", "lib/.git", "__pycache__/x.pyc", "lib/__pycache__/x.pyc", "outputs/x", "logs/x", "checkpoints/x"]


def test_what_always_stays_out(source: Path, cache: Path, tmp_path: Path) -> None:
    before = snapshot.pack(source, cache).digest
    fill(source, dict.fromkeys(ALWAYS_OUT, "x"))
    assert snapshot.pack(source, cache).digest == before
    fill(source, {"lib/outputs/x": "y"})
    assert "lib/outputs/x" in unpacked(snapshot.pack(source, cache), tmp_path / "there")


def test_ignored_files_stay_out_in_gits_own_syntax(source: Path, cache: Path, tmp_path: Path) -> None:
    fill(
        source, {"data/big.bin": "x", "data/keep.csv": "x", "a.log": "x", "lib/b.log": "x", "build/x": "x", "lib/build/x": "x"}
    )
    (source / ".gitignore").write_text("# no logs\n*.log\n!lib/b.log\n/build\ndata/*\n!data/keep.csv\n")
    found = unpacked(snapshot.pack(source, cache), tmp_path / "there")
    assert set(found) == {".gitignore", "train.py", "lib/model.py", "lib/b.log", "lib/build/x", "data/keep.csv"}


def test_amlignore_wins_over_gitignore(source: Path, cache: Path, tmp_path: Path) -> None:
    fill(source, {".gitignore": "train.py\n", ".amlignore": "lib/\n"})
    assert set(unpacked(snapshot.pack(source, cache), tmp_path / "there")) == {".gitignore", ".amlignore", "train.py"}


def test_only_the_ignore_file_of_the_root_counts(source: Path, cache: Path, tmp_path: Path) -> None:
    fill(source, {"lib/.gitignore": "*\n"})
    assert "lib/model.py" in unpacked(snapshot.pack(source, cache), tmp_path / "there")


def test_an_ignored_folder_is_not_even_looked_into(source: Path, cache: Path) -> None:
    fill(source, {".amlignore": "secret/\n", "secret/x": "x"})
    os.mkfifo(source / "secret" / "pipe")
    snapshot.pack(source, cache)


def test_changed_rules_are_obeyed_at_once(source: Path, cache: Path, tmp_path: Path) -> None:
    fill(source, {".amlignore": "lib/\n"})
    snapshot.pack(source, cache)
    fill(source, {".amlignore": "train.py\n"})
    assert set(unpacked(snapshot.pack(source, cache), tmp_path / "there")) == {".amlignore", "lib/model.py"}


def test_musters_own_folder_stays_out_of_a_source_that_holds_it(source: Path) -> None:
    home = source / ".muster"
    fill(home, {"jobs/x": "x"})
    first = snapshot.pack(source, home / "snapshots")
    assert snapshot.pack(source, home / "snapshots") == first
    assert first.files == 2
    shutil.rmtree(home)
    for _ in range(2):  # its parent is the source itself: only the cache stays out
        assert snapshot.pack(source, source / "cache").files == 2


# -- what is refused


def test_a_folder_that_is_not_there_is_refused(source: Path, cache: Path) -> None:
    assert "is not there" in refusal(source / "nothing", cache)
    assert "is no folder" in refusal(source / "train.py", cache)


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "lib/../../outside", "through/x"])
def test_a_link_that_leads_outside_is_refused(source: Path, cache: Path, target: str) -> None:
    if target.startswith("through"):
        (source.parent / "beyond").mkdir()
        (source / "lib" / "model.py").unlink()
        (source / "through").symlink_to("../beyond")
        (source / ".amlignore").write_text("/through\n")
    (source / "bad").symlink_to(target)
    said = refusal(source, cache)
    assert f"{str(source / 'bad')!r} is a link to {target!r}, outside the source folder" in said


def test_a_link_by_an_absolute_path_holds_on_any_node(source: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    (source / "lib" / "first").symlink_to(source / "train.py")
    (source / "lib" / "second").symlink_to(tmp_path / "alias" / "train.py")
    (source / "lib" / "folder").symlink_to(source / "lib")
    node_folder.unpack_code(snapshot.pack(source, cache).archive, tmp_path / "there")
    assert {(tmp_path / "there" / "lib" / name).readlink() for name in ("first", "second")} == {Path("../train.py")}
    assert (tmp_path / "there" / "lib" / "folder" / "model.py").exists()


def test_a_link_to_nothing_and_a_link_to_itself_travel(source: Path, cache: Path, tmp_path: Path) -> None:
    (source / "dangling").symlink_to("not there")
    (source / "loop").symlink_to("loop")
    node_folder.unpack_code(snapshot.pack(source, cache).archive, tmp_path / "there")
    assert (tmp_path / "there" / "loop").readlink() == Path("loop")


def test_what_is_no_file_is_refused(source: Path, cache: Path) -> None:
    os.mkfifo(source / "pipe")
    assert f"{str(source / 'pipe')!r} of the source folder is a named pipe" in refusal(source, cache)
    (source / "pipe").unlink()
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{short}/s")
        shutil.move(f"{short}/s", source / "socket")
        assert "is a socket" in refusal(source, cache)


@contextmanager
def somebody_else(*folders: Path) -> Iterator[None]:
    """Be a user without rights for a while, one who owns the folders."""
    if os.geteuid() != 0:
        yield
        return
    for path in [path for folder in folders for path in (folder, *folder.rglob("*"))]:
        os.lchown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["data/secret.csv", "data"])
def test_what_can_not_be_read_is_refused_by_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, cache = Path(folder, "source"), Path(folder, "home", "snapshots")
        fill(source, {"data/secret.csv": "x"})
        cache.mkdir(parents=True)
        with somebody_else(Path(folder)):
            (source / name).chmod(0)
            said = refusal(source, cache)
            (source / name).chmod(0o700)
    assert f"{str(source / name)!r} of the source folder can't be read: Permission denied" in said


def test_a_pattern_that_can_not_be_read_is_refused(source: Path, cache: Path) -> None:
    (source / ".amlignore").write_text("!\n")
    assert "pattern" in refusal(source, cache)
    (source / ".amlignore").write_bytes(b"\xff\n")
    assert ".amlignore' can't be read" in refusal(source, cache)


def test_a_file_that_changes_all_the_time_is_refused_by_name(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_of = tree._hash

    def grows(file: str, stamp: tree.Stamp) -> str:
        with open(file, "a") as growing:
            growing.write("x")
        return hash_of(file, stamp)

    monkeypatch.setattr(tree, "_hash", grows)
    assert "changes while it is being packed" in refusal(source, cache)


def test_a_file_that_changes_once_while_it_is_packed_is_read_again(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    hash_of = tree._hash
    changes = iter(["print(2)\n"])

    def changed_after(file: str, stamp: tree.Stamp) -> str:
        digest = hash_of(file, stamp)
        if file.endswith("train.py"):
            for text in changes:
                Path(file).write_text(text)
        return digest

    monkeypatch.setattr(tree, "_hash", changed_after)
    assert unpacked(snapshot.pack(source, cache), tmp_path / "there")["train.py"] == "print(2)\n"


# -- what it costs


def test_unchanged_files_are_not_read_again(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    first = snapshot.pack(source, cache)
    monkeypatch.setattr(tree, "_hash", lambda file, stamp: pytest.fail(f"{file} was read"))
    assert snapshot.pack(source, cache) == first


def test_only_a_changed_file_is_read_again(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    snapshot.pack(source, cache)
    (source / "train.py").write_text("print(2)\n")
    read: list[str] = []
    hash_of = tree._hash
    monkeypatch.setattr(tree, "_hash", lambda file, stamp: (read.append(Path(file).name), hash_of(file, stamp))[1])
    snapshot.pack(source, cache)
    assert read == ["train.py"]


def test_a_file_changed_just_now_is_read_again(source: Path, cache: Path) -> None:
    """Its times could be the same after another change."""
    before = snapshot.pack(source, cache).digest
    status = (source / "train.py").stat()
    (source / "train.py").write_text("print(2)\n")
    os.utime(source / "train.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert snapshot.pack(source, cache).digest != before


def test_a_broken_memory_is_none(source: Path, cache: Path) -> None:
    first = snapshot.pack(source, cache)
    (memory,) = (cache / "seen").iterdir()
    for content in ("", "[]", '{"files": {"train.py": 1}}', '{"files": []}'):
        memory.write_text(content)
        assert snapshot.pack(source, cache) == first


def test_an_unchanged_snapshot_needs_no_heavy_import(source: Path, cache: Path) -> None:
    (source / ".gitignore").write_text("*.pyc\n")
    snapshot.pack(source, cache)
    code = (
        "import sys; from pathlib import Path; from muster.packaging.code import snapshot;"
        "snapshot.pack(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print([name for name in ('pathspec', 'tarfile', 'gzip', 'subprocess', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, source, cache], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_small_snapshot_takes_milliseconds(source: Path, cache: Path) -> None:
    snapshot.pack(source, cache)

    def once() -> float:
        start = time.thread_time()  # what others do on this machine does not count
        snapshot.pack(source, cache)
        return time.thread_time() - start

    assert min(once() for _ in range(10)) < 0.01


def test_many_at_once_leave_one_whole_archive(source: Path, cache: Path) -> None:
    taken: list[snapshot.Snapshot] = []
    threads = [threading.Thread(target=lambda: taken.append(snapshot.pack(source, cache))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({t.digest for t in taken}) == 1
    assert [file.name for file in cache.iterdir() if file.is_file()] == [taken[0].archive.name]
    with tarfile.open(taken[0].archive) as packed:
        assert packed.getnames() == ["lib", "lib/model.py", "train.py"]
    json.loads(next((cache / "seen").iterdir()).read_text())
