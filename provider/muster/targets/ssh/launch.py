"""Launch: an attempt whose turn has come is laid out on the hosts it holds, all made ready before any agent starts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from muster.core.codec import from_data
from muster.core.errors import MusterError, RequestError, TargetError
from muster.core.event import Event
from muster.core.plan import JobPlan
from muster.node.host.gang_scheduler import LAUNCHED, STARTING
from muster.node.host.queue_control import LEASE
from muster.targets.claim import Claim
from muster.targets.contract import Log
from muster.targets.hosts import cache, host_files
from muster.targets.hosts.connection import Link
from muster.targets.hosts.host_files import Ground
from muster.targets.hosts.shell import Lost, Shell, Stream
from muster.targets.hosts.ssh_errors import Bad, together
from muster.targets.ssh import preflight
from muster.targets.ssh.end_events import unplaced
from muster.targets.ssh.launch_bundle import PARCEL, Attempt, Files, Parcel, Ready
from muster.targets.ssh.queue_client import ClaimPlace, Entry, Place

START_TIME = 300.0  # seconds for unpacking the code and starting an agent
OVER_SLACK = 900.0  # seconds beyond all limits of a run after which no agent lives, however its last words and clocks go
Links = Callable[[str], Link]


class NotOurs(Exception):
    """Somebody else launches the attempt, or it has left the queue."""


class Unsettled(TargetError):
    """A launch was broken off, and a host that can't be asked may have an agent; what is held is kept until it can be."""


class Launch:
    """One try to launch an attempt; ``links`` gives the link of a host, ``files`` the parcel if it is at hand."""

    def __init__(self, place: ClaimPlace, links: Links, log: Log, files: Files | None = None) -> None:
        self._files = files
        self._place = place
        self._links = links
        self._log = log
        self._name = secrets.token_hex(8)
        self._begun: tuple[Place, ...] = ()  # where this launch or an earlier one may have started agents

    async def run(self, entry: Entry) -> Entry | None:
        """Launch; gives the entry as it then is: launched, or waiting again because a host could not be used.

        None if somebody else is at it, or it has left the queue.

        :raises Unsettled: it was broken off; whoever watches tries again when our lease has run out.
        :raises MusterError: it can't be launched on what is left of the inventory; it has left the queue with that as its end.
        """
        answer = await self._place.as_launcher("take", entry, self._name)
        if not answer["taken"]:
            return None
        taken = from_data(Entry, answer["entry"])
        claim = from_data(Claim, answer["claim"])
        self._begun = taken.places if taken.state == STARTING else ()
        async with self._renewing(taken):
            try:
                return await self._try(taken, claim, float(answer["waited"]))
            except NotOurs:
                return None
            except Bad as bad:
                return await self._give_back(taken, bad)

    async def end(self, entry: Entry, end: Event, end_nodes: Callable[[Entry], Awaitable[None]]) -> bool:
        """End an attempt in place of its launcher, who has died, so that none follows; False if somebody is at it."""
        answer = await self._place.as_launcher("take", entry, self._name)
        if not answer["taken"]:
            return False
        taken = from_data(Entry, answer["entry"])
        async with self._renewing(taken):
            await end_nodes(taken)
            return (await self._place.withdraw(taken, end, self._name))[0]

    async def _try(self, entry: Entry, claim: Claim, waited: float) -> Entry:
        try:
            return await self._launch(entry, claim, waited)
        except (NotOurs, Bad, MusterError):
            raise  # of these, a MusterError: the claim place does not answer
        except Exception as error:  # a bug of ours must end the run by name, not have it launched for ever
            broken = TargetError(f"the launch of run {entry.job} broke: {type(error).__name__}: {error}")
            raise Bad({place.host: broken for place in entry.places}) from error

    async def _launch(self, entry: Entry, claim: Claim, waited: float) -> Entry:
        files = await self._parcel(entry)
        parcel = from_data(Parcel, json.loads(files[PARCEL][0]))
        ready = await self._all(entry, [self._make_ready(place.host, parcel) for place in entry.places])
        if self._has_spares(entry) and not parcel.commits:
            await self._inspect(entry, ready, parcel.plan)
        folders = [
            f"{r.ground.root}/jobs/{entry.job}/g{entry.generation}-a{entry.attempt}/node-{n}" for n, r in enumerate(ready)
        ]
        limits = parcel.plan.limits
        over = claim.deadline(limits.max_run_duration) + waited + limits.grace + limits.store_patience + OVER_SLACK
        await self._held("starting", entry, folders=folders, over=over)
        places = tuple(dataclasses.replace(p, folder=f) for p, f in zip(entry.places, folders, strict=True))
        self._begun = places
        attempt = Attempt(
            entry=entry,
            claim=claim,
            parcel=parcel,
            files=files,
            ready=tuple(ready),
            folders=tuple(folders),
            waited=waited,
            claim_host=self._place.inventory.hosts[0].name,
        )
        await self._all(entry, [self._start(attempt, node, own) for node, own in enumerate(attempt.node_files())])
        await self._held("started", entry)
        return dataclasses.replace(entry, state=LAUNCHED, places=places)

    # -- making hosts ready

    async def _make_ready(self, name: str, parcel: Parcel) -> Ready:
        link = self._links(name)
        return await link.use(lambda shell: self._made_ready(link, shell, parcel))

    async def _made_ready(self, link: Link, shell: Shell, parcel: Parcel) -> Ready:
        environment = cache.environment_name(parcel.plan.environment)
        seen = await link.ground(*filter(None, [environment, parcel.archive]))
        ref, host = parcel.plan.environment, link.host
        interpreter = ref.interpreter or (f"{seen.root}/{environment}/bin/python" if environment else seen.python)
        if environment and environment not in seen.have:
            interpreter = await cache.ensure_environment(shell, host.root, host.python, ref, self._log)
        if parcel.archive and parcel.archive not in seen.have:
            await self._bring_archive(shell, seen, parcel.archive)
        archive = f"{seen.root}/{parcel.archive}" if parcel.archive else ""
        address = self._place.inventory.host(host.name).address
        return Ready(link=link, address=address, ground=seen, interpreter=interpreter, archive=archive)

    async def _bring_archive(self, shell: Shell, seen: Ground, name: str) -> None:
        """Carry packed code from the claim place to another host, piece by piece."""
        first = await self._place.link.known()
        there, path = await self._place.link.shell(), f"{first.root}/{name}"
        size = await there.run(["stat", "-c", "%s", path])
        source = await there.open(["cat", path])
        try:
            what = f"reading {name}"
            await host_files.store(shell, seen.python, seen.root, name, int(size.out or 0), _stream(source, there.where, what))
        finally:
            await source.close()

    async def _parcel(self, entry: Entry) -> Files:
        """Give what was stored at submit, fetched from the claim place unless it is at hand."""
        if self._files is not None:
            return self._files
        command = ["tar", "-C", entry.parcel, "-cf", "-", "."]
        done = await self._place.link.use(lambda shell: shell.run(command, limit=60.0))
        if done.code and not (await self._place.look(*entry.key)).live:
            raise NotOurs
        if done.code:  # it would be so for whoever tries next
            gone = TargetError(f"what run {entry.job} is launched with can't be read: {done.said}; submit it again")
            raise Bad({place.host: gone for place in entry.places})
        return host_files.files_of(done.out)

    # -- looking at hosts where there are others to take

    def _has_spares(self, entry: Entry) -> bool:
        return any(host.spare and host.name not in entry.excluded for host in self._place.inventory.hosts)

    async def _inspect(self, entry: Entry, ready: list[Ready], plan: JobPlan) -> None:
        """Look at all hosts and try all pairs as agents would; who does not fit is bad, so that a spare takes its place."""
        try:
            await preflight.inspect(entry, ready, plan)
        except Bad as bad:
            if not all(isinstance(error, Lost) for error in bad.hosts.values()):
                raise
            await preflight.inspect(entry, ready, plan)  # a connection was lost, of which there is another by now

    # -- starting agents

    async def _start(self, attempt: Attempt, node: int, files: Files) -> None:
        entry, parcel, ready = attempt.entry, attempt.parcel, attempt.ready[node]
        request = {
            "do": "start",
            "folder": attempt.folders[node],
            "launch": entry.launch,
            "marker": f"{entry.job}/g{entry.generation}/a{entry.attempt}",
            "mounts": [mount.source for mount in parcel.plan.container.mounts],
            "archive": ready.archive,
            "before": parcel.left(node),
        }
        answer = await ready.link.ask("steward", request, tail=host_files.tar_of(files), limit=START_TIME)
        if answer.get("stale"):
            raise NotOurs
        if not answer["ok"]:
            raise RequestError(f"host {ready.link.host.name}: {answer['error']}")

    async def _undo(self, entry: Entry) -> list[str]:
        """End what has been started of a launch that is given up; gives the hosts that did not say that nothing is left."""

        async def undone(place: Place) -> bool:
            try:
                link = self._links(place.host)
            except MusterError:
                return True  # of a host that the inventory has no more, nothing is to be given away
            request = {"do": "give_up", "folder": place.folder, "launch": entry.launch, "keep": entry.is_fixed}
            try:
                return not (await link.ask("steward", request))["left"]
            except MusterError:
                return False

        done = await asyncio.gather(*(undone(place) for place in self._begun))
        return [place.host for place, well in zip(self._begun, done, strict=True) if not well]

    # -- the lease, and giving back

    async def _all(self, entry: Entry, work: list[Any]) -> list[Any]:
        return await together([place.host for place in entry.places], work)

    async def _held(self, do: str, entry: Entry, **fields: Any) -> None:
        if not (await self._place.as_launcher(do, entry, self._name, **fields))["held"]:
            raise NotOurs

    @contextlib.asynccontextmanager
    async def _renewing(self, entry: Entry) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE / 3)
                with contextlib.suppress(TargetError):
                    await self._place.as_launcher("renew", entry, self._name)

        task = asyncio.get_running_loop().create_task(renew())
        try:
            yield
        finally:
            task.cancel()

    async def _give_back(self, entry: Entry, bad: Bad) -> Entry | None:
        """Give the places back, and wait for others without the bad hosts; raises what was bad if there are not enough.

        Nothing is given back while a host that can't be asked may have an agent.
        """
        reasons = {host: " ".join(str(error).split()) for host, error in bad.hosts.items()}
        if away := await self._undo(entry):
            why, who = next(iter(reasons.values())), ", ".join(away)
            raise Unsettled(f"the launch was broken off ({why}); it is tried again once {who} can say what lives there")
        hosts = self._place.inventory.data
        answer = await self._place.as_launcher("refuse", entry, self._name, bad=reasons, hosts=hosts)
        if not answer["held"]:
            return None
        given = from_data(Entry, answer["entry"])
        if len(answer["able"]) < entry.nodes:
            error = next(iter(bad.hosts.values()))
            await self._place.withdraw(given, unplaced(entry, reasons))
            raise error
        for reason in reasons.values():
            self._log(reason)
        return given


async def _stream(source: Stream, where: str, what: str) -> AsyncIterator[bytes]:
    """Yield what a command says.

    :raises TargetError: it has failed, or was cut off.
    """
    while data := await source.read(1 << 18):
        yield data
    done = await source.wait()
    if done.code:
        raise host_files.refusal(done, where, what, "cat")
