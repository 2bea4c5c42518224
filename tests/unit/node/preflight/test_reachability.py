"""ProbeListener that other nodes try, on loopback addresses; firewalls and routes have a test with real networks."""

from __future__ import annotations

import asyncio
import socket

from muster.node.preflight.reachability import Blocked, Endpoint, ProbeListener, try_endpoints


async def test_open_doors_are_reached_and_free_again_at_once() -> None:
    listener = ProbeListener()
    wished, spare = listener.open("127.8.8.2", [0, 0])
    others = [Endpoint(node=1, address="127.8.8.2", ports=(wished, spare)), Endpoint(node=0, address="127.8.8.1", ports=(9,))]
    assert await asyncio.to_thread(try_endpoints, 0, others) == ()
    await asyncio.gather(*(asyncio.to_thread(try_endpoints, node, others[:1]) for node in (2, 3, 4)))
    listener.close()
    with socket.socket() as rank:  # without SO_REUSEADDR, as not every framework sets it
        rank.bind(("127.8.8.2", wished))


async def test_a_port_that_is_taken_is_not_opened() -> None:
    listener = ProbeListener()
    (port,) = listener.open("127.8.8.3", [0])
    assert listener.open("127.8.8.3", [port]) == ()
    listener.close()


def test_who_is_not_reached_is_named_once_with_the_reason() -> None:
    found = try_endpoints(0, [Endpoint(node=3, address="127.8.8.4", ports=(9, 10))])
    why = "refused, though somebody listens there"
    assert found == (Blocked(source=0, node=3, address="127.8.8.4", port=9, why=why),)


def test_silence_ends_with_the_limit() -> None:
    with socket.socket() as full:
        full.bind(("127.8.8.5", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for caller in waiting:
            caller.setblocking(False)
            caller.connect_ex(address)
        [blocked] = try_endpoints(0, [Endpoint(node=1, address=address[0], ports=(address[1],))], limit=0.3)
        for caller in waiting:
            caller.close()
    assert blocked.why == "no answer"
