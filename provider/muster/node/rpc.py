"""Typed commands between two processes: a frozen dataclass per request, named ``do`` on the wire, with the type of its answer.

Both sides share the request. The client encodes it and decodes the reply; the server has a handler per request::

    @dataclass(frozen=True, kw_only=True)
    class FindPorts(Request[dict[str, int]]):  # the type of the answer: a dataclass, a plain value, or None
        address: str

    commands = Commands({FindPorts: find_ports})  # sync handlers, or async ones for ``answer_async``

    line = json.dumps(FindPorts(address="10.0.0.1").encode())  # {"do": "find_ports", "address": "10.0.0.1"}
    reply = json.dumps(commands.answer(line))  # {"value": {"master": 29500}} or {"error": "the reason in one line"}
    ports = FindPorts.decode_reply(json.loads(reply))  # a dict[str, int]; raises CommandFailed

A handler fails the command by raising: :class:`CommandFailed` with a sentence for the client, anything else is a bug or an
error of the system, whose traceback goes to the server's own stderr.
"""

from __future__ import annotations

import inspect
import json
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from muster.core.codec import from_data, to_data
from muster.core.paths import check_file_name

A = TypeVar("A")
Handler = Callable[..., Any]
Message = str | bytes | Mapping[str, Any]  # a JSON object, as text or parsed
Reply = dict[str, Any]  # its ``value`` or its ``error``


class CommandFailed(Exception):
    """The command failed on the other side; the message is the reason in one line."""


class BadRequest(CommandFailed):
    """A message that is no request: not JSON, an unknown command, a field that is missing or of the wrong type."""


class Request(Generic[A]):
    """A command with its arguments; its subclasses are frozen dataclasses, and name the type of the answer."""

    command: typing.ClassVar[str]  # the wire name: ``find_ports`` for FindPorts

    def __init_subclass__(cls) -> None:
        cls.command = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).strip("_")

    def encode(self) -> dict[str, Any]:
        """Return the JSON object of the request."""
        return {"do": self.command, **to_data(self)}

    @classmethod
    def decode_reply(cls, reply: Mapping[str, Any]) -> A:
        """Return the answer in a reply.

        :raises CommandFailed: the reply is an error, or not of the answer's type.
        """
        if "error" in reply:
            raise CommandFailed(str(reply["error"]))
        kind = typing.get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        try:
            return typing.cast(A, from_data(kind, reply.get("value")))
        except (ValueError, TypeError) as error:
            raise CommandFailed(f"malformed answer to {cls.command!r}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class OfJob:
    """Arguments of a command on one job, whose id becomes a file name."""

    job_id: str

    def __post_init__(self) -> None:
        check_file_name(self.job_id)


class Commands:
    """The commands that a process serves: a handler for each type of request."""

    def __init__(self, handlers: Mapping[type[Request[Any]], Handler]) -> None:
        self._handlers = {kind.command: (kind, handler) for kind, handler in handlers.items()}

    def resolve(self, message: Message) -> tuple[Handler, Request[Any]]:
        """Return the handler of a message and the request in it.

        :raises BadRequest: the message is no request that this process serves.
        """
        try:
            fields = json.loads(message) if isinstance(message, (str, bytes)) else message
            command = fields["do"]
            if command not in self._handlers:
                raise BadRequest(f"unknown command {command!r}; known are {', '.join(sorted(self._handlers))}")
            kind, handler = self._handlers[command]
            return handler, from_data(kind, fields)
        except (KeyError, ValueError, TypeError) as error:
            raise BadRequest(f"malformed request: {error}") from None

    def call(self, message: Message) -> Any:
        """Run the handler of a message, and return what the handler returns: for an async one the coroutine.

        :raises BadRequest: the message is no request that this process serves.
        """
        handler, request = self.resolve(message)
        return handler(request)

    def answer(self, message: Message) -> Reply:
        """Return the reply to a message, whatever happens."""
        try:
            return {"value": to_data(self.call(message))}
        except Exception as error:
            return {"error": one_line(error)}

    async def answer_async(self, message: Message) -> Reply:
        """Return the reply to a message, whatever happens; handlers may be async."""
        try:
            value = self.call(message)
            return {"value": to_data(await value if inspect.isawaitable(value) else value)}
        except Exception as error:
            return {"error": one_line(error)}


def one_line(error: Exception) -> str:
    """Return an error in one line for the client; print the traceback of an unexpected one to stderr."""
    if isinstance(error, CommandFailed):
        return str(error)
    traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(f"{type(error).__name__}: {error}".split())
