"""Private files: only their owner reads them, and one is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from muster.node.private_files import replace_file, write_private


def test_a_private_file_is_its_owner_s(tmp_path: Path) -> None:
    for write in (write_private, replace_file):
        file = tmp_path / write.__name__
        write(file, b"secret")
        write(file, b"other")
        assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"other", 0o600)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_what_can_not_be_replaced_stays_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "queue.json"
    replace_file(file, b"old")
    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("queue.json", b"old")]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    replace_file(tmp_path / "claim.json", b"{}")
    assert calls == ["fsync", "replace", "fsync"], "the content, the name, the folder"


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_can_not_flush_a_folder_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output") if raises else nullcontext():
        replace_file(tmp_path / "queue.json", b"new")
    assert (tmp_path / "queue.json").read_bytes() == b"new"
