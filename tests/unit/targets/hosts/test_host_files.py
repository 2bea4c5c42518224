"""What hosts keep is put into place whole or not at all, also when whoever sends it dies in the middle."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.core.errors import TargetError
from muster.targets.hosts import host_files
from muster.targets.hosts.shell import ConnectionLost, LocalShell

SHELL = LocalShell()


async def test_a_file_is_there_once_all_of_it_has_come(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"sending snapshots/a.tar.gz on host this machine failed .*: 4 of 10 bytes came"):
        await host_files.send_file(SHELL, sys.executable, str(tmp_path), "snapshots/a.tar.gz", 10, [b"half"])
    assert list((tmp_path / "snapshots").iterdir()) == []
    await host_files.send_file(SHELL, sys.executable, str(tmp_path), "snapshots/a.tar.gz", 10, [b"half", b" whole"])
    assert (tmp_path / "snapshots" / "a.tar.gz").read_bytes() == b"half whole"


async def test_a_sender_that_is_lost_itself_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionLost("the source is away")

    with pytest.raises(ConnectionLost, match="the source is away"):
        await host_files.send_file(SHELL, sys.executable, str(tmp_path), "snapshots/a.tar.gz", 10, pieces())
    assert not (tmp_path / "snapshots" / "a.tar.gz").exists()


async def test_a_tar_that_is_cut_off_between_two_files_is_not_unpacked(tmp_path: Path) -> None:
    packed = host_files.tar_of({"one": (b"1" * 512, 0o644), "two": (b"2" * 512, 0o644)})
    with pytest.raises(TargetError, match="cut off"):
        await host_files.send_archive(SHELL, sys.executable, str(tmp_path), "agents/a", [packed[:1024]])
    assert list((tmp_path / "agents").iterdir()) == []
    await host_files.send_archive(SHELL, sys.executable, str(tmp_path), "agents/a", [packed])
    assert sorted(file.name for file in (tmp_path / "agents" / "a").iterdir()) == ["one", "two"]


async def test_an_answer_comes_after_whatever_login_files_print() -> None:
    done = await SHELL.run(["printf", 'welcome\n{"ok": true}'])
    assert host_files.answer_of(done, "h") == {"ok": True}
    with pytest.raises(TargetError, match="host h answered 'welcome' where JSON was expected"):
        host_files.answer_of(await SHELL.run(["echo", "welcome"]), "h")
