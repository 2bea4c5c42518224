"""Commands are typed on both sides; what is no request is answered by a sentence, and a bug by one line of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from muster.node.rpc import CommandFailed, Commands, Request


@dataclass(frozen=True, kw_only=True)
class Found:
    ports: dict[str, int]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FindPorts(Request[Found]):
    address: str
    near: tuple[int, ...] = ()
    spare: bool = False


@dataclass(frozen=True, kw_only=True)
class Leave(Request[None]):
    pass


def find_ports(request: FindPorts) -> Found:
    if request.address == "unknown":
        raise CommandFailed("nobody knows it")
    return Found(ports={request.address: len(request.near) // (not request.spare)}, names=("é\n",))


async def find_ports_later(request: FindPorts) -> Found:
    await asyncio.sleep(0)
    return find_ports(request)


COMMANDS = Commands({FindPorts: find_ports, Leave: lambda request: None})
LATER = Commands({FindPorts: find_ports_later, Leave: lambda request: None})


def answer(message: Any) -> dict[str, Any]:
    now = COMMANDS.answer(message)
    assert now == asyncio.run(LATER.answer_async(message))
    return now


def test_a_request_goes_there_and_its_answer_back() -> None:
    request = FindPorts(address="a", near=(1, 2))
    line = json.dumps(request.encode())
    assert json.loads(line) == {"do": "find_ports", "address": "a", "near": [1, 2], "spare": False}
    reply = json.loads(json.dumps(answer(line)))
    assert FindPorts.decode_reply(reply) == Found(ports={"a": 2}, names=("é\n",))
    assert Leave.decode_reply(answer(Leave().encode())) is None


def test_fields_of_a_later_release_are_ignored() -> None:
    assert "value" in answer({**FindPorts(address="a").encode(), "id": 7})


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "malformed request: "),
        ("[1]", "malformed request: "),
        ("{}", "malformed request: 'do'"),
        ('{"do": "fly"}', "unknown command 'fly'; known are find_ports, leave"),
        ('{"do": ["find_ports"]}', "malformed request: "),
        ('{"do": "__init__"}', "unknown command '__init__'"),
        ('{"do": "find_ports"}', "malformed request: FindPorts"),
        ('{"do": "find_ports", "address": 7}', "FindPorts.address: str expected, got 7"),
        ('{"do": "find_ports", "address": "a", "near": "12"}', "FindPorts.near: tuple expected, got '12'"),
        ('{"do": "find_ports", "address": "a", "near": [true]}', "FindPorts.near: int expected, got True"),
        ('{"do": "find_ports", "address": "a", "spare": 1}', "FindPorts.spare: bool expected, got 1"),
        ('{"do": "find_ports", "address": null}', "FindPorts.address: str expected, got None"),
        ('{"do": "find_ports", "address": "unknown"}', "nobody knows it"),
        ('{"do": "find_ports", "address": "a", "spare": true}', "ZeroDivisionError: "),
    ],
)
def test_what_cannot_be_done_is_answered_by_a_sentence(message: str, words: str) -> None:
    reply = answer(message)
    assert set(reply) == {"error"}
    assert words in reply["error"]
    assert "\n" not in reply["error"]
    with pytest.raises(CommandFailed) as raised:
        FindPorts.decode_reply(reply)
    assert str(raised.value) == reply["error"]


@pytest.mark.parametrize("value", [None, 7, {"ports": {"a": "b"}}, {"ports": [1]}])
def test_an_answer_of_another_type_is_a_failure_too(value: Any) -> None:
    with pytest.raises(CommandFailed, match="malformed answer to 'find_ports'"):
        FindPorts.decode_reply({"value": value})


def test_the_traceback_of_a_bug_stays_with_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    COMMANDS.answer(FindPorts(address="a", spare=True).encode())
    assert "Traceback" in capfd.readouterr().err
    COMMANDS.answer({"do": "fly"})
    assert "Traceback" not in capfd.readouterr().err
