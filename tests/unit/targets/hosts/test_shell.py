"""A shell on this machine: argv in, exit status and bytes out, streams that can be slow."""

from __future__ import annotations

import sys
import time

import pytest

from lab import HOSTILE
from muster.core.errors import TargetError
from muster.targets.hosts.shell import CommandTimeout, ConnectionLost, LocalShell, send

SHELL = LocalShell()


async def test_arguments_arrive_unchanged_and_status_and_output_come_back() -> None:
    code = "import sys; sys.stdout.write('|'.join(sys.argv[1:])); sys.stderr.write('aside'); sys.exit(3)"
    done = await SHELL.run([sys.executable, "-c", code, *HOSTILE])
    assert (done.code, done.out.decode(), done.err) == (3, "|".join(HOSTILE), b"aside")
    assert done.message == "aside"


async def test_input_is_read_to_its_end_and_a_signal_is_told() -> None:
    assert (await SHELL.run(["wc", "-c"], stdin=b"x" * 3_000_000)).out.split() == [b"3000000"]
    assert (await SHELL.run(["sh", "-c", "kill -9 $$"])).code == 137
    assert (await SHELL.run(["true"], stdin=b"x" * 3_000_000)).code == 0, "one that does not read is no failure"


async def test_what_takes_too_long_is_ended_with_all_that_it_started() -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"did not end within 0.3 s"):
        await SHELL.run(["sh", "-c", "sleep 600 & sleep 600"], limit=0.3)
    assert time.monotonic() - began < 60


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(TargetError, match="no-such-program can't be run on this machine: No such file"):
        await SHELL.run(["no-such-program"])


async def test_a_stream_goes_both_ways_until_it_is_closed() -> None:
    stream = await SHELL.open(["cat"])
    await stream.write(b"one\n")
    assert await stream.read(100) == b"one\n"
    await stream.end()
    assert await stream.read(100) == b""
    assert (await stream.wait()).code == 0
    await stream.close()
    sleeping = await SHELL.open(["sleep", "600"])
    await sleeping.close()
    assert (await sleeping.wait()).code == 137


async def test_much_is_sent_piece_by_piece_and_a_refusal_says_why() -> None:
    assert (await send(SHELL, ["wc", "-c"], (b"x" * 100_000 for _ in range(50)))).out.split() == [b"5000000"]
    refused = await send(SHELL, ["sh", "-c", "echo full >&2; exit 1"], (b"x" * 100_000 for _ in range(50)))
    assert (refused.code, refused.message) == (1, "full")


async def test_writing_to_one_that_has_ended_is_told() -> None:
    stream = await SHELL.open(["true"])
    await stream.wait()
    with pytest.raises(ConnectionLost, match="takes no more input"):
        await stream.write(b"x" * 10_000_000)
    await stream.close()
