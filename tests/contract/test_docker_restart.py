"""An engine that is restarted, killed or full in the middle of a job: the end is truthful; shown on an engine of our own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import private_engine
from docker_lab import DockerLab
from engine import DockerStore, DockerStoreServer
from lab import LIMIT, lines, new_job_id, notes, plan_of
from muster.core.errors import TargetError
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.runner import Outcome
from private_engine import STORES, PrivateEngine
from store_server import wait_until

COUNTS = (
    "import pathlib, time\n"
    "print('ready', flush=True)\n"
    "while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)\n"
    "print('went on')"
)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, base_image: str) -> Iterator[PrivateEngine]:
    """Yield an engine of our own with the base image in it."""
    if not private_engine.can_be_had():
        pytest.skip("starting a dockerd of our own needs root, dockerd, ip, nsenter and sysctl")
    engine = PrivateEngine(folder=tmp_path_factory.mktemp("engine") / "disk")
    try:
        engine.set_up()
        engine.load(base_image)
        yield engine
    finally:
        engine.take_down()


@pytest.fixture(scope="module")
def private_store(
    private: PrivateEngine, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerStoreServer]:
    """Yield a store in that engine; it has to be started again after a restart."""
    server = DockerStoreServer(tmp_path_factory.mktemp("weed"), engine=private.client(), image=base_image, prefix=STORES)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def private_lab(private: PrivateEngine, private_store: DockerStoreServer, base_image: str) -> Iterator[DockerLab]:
    """A Docker target on the engine of our own."""
    server = private_store
    server.start()
    store = DockerStore(uri=server.fresh_uri(), access=server.access, server=server, network=server.network)
    lab = DockerLab(engine=private.client(), store=store, base_image=base_image, url=private.url)
    yield lab
    lab.close()


class Watcher(threading.Thread):
    """Watches a job from its beginning, over whatever happens to the engine meanwhile."""

    def __init__(self, lab: DockerLab, handle: JobHandle) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self._lab, self._handle = lab, handle
        self.start()

    def run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        async for _, _, event in self._lab.target.session().watch({self._handle: Cursor()}):
            self.events.append(event)

    def outcome(self) -> Outcome:
        self.join(LIMIT)
        assert not self.is_alive(), "the session did not end"
        return Outcome.from_event(self._handle, self.events[-1])


def test_with_live_restore_the_job_lives_on_and_is_re_attached(private: PrivateEngine, private_lab: DockerLab) -> None:
    private.stop()
    private.live_restore = True
    private.start()
    private_lab.store.server.start()
    plan, job_id = plan_of(COUNTS, private_lab.store.uri), new_job_id()
    handle = private_lab.submit(plan, job_id)
    private_lab.wait_for_line(handle)
    private_lab.wait_for_line(handle, node=1)
    watcher = Watcher(private_lab, handle)
    wait_until(lambda: lines(watcher.events) == ["ready", "ready"])
    private.stop()
    wait_until(lambda: "does not answer" in notes(watcher.events))
    private.start()
    assert private_lab.submit(plan, job_id).found == "attached"
    for node in (0, 1):
        private_lab.container(handle, node).exec_run(["touch", "/tmp/go"])
    outcome = watcher.outcome()
    assert outcome.state is RunState.COMPLETED, outcome
    assert "answers again" in notes(watcher.events)
    assert sorted(lines(watcher.events)) == ["ready", "ready", "went on", "went on"], "no line is lost or doubled"
    private_lab.target.release(handle)
    assert private_lab.left(job_id) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_without_it_the_job_fails_by_name(private: PrivateEngine, private_lab: DockerLab, number: int) -> None:
    private.stop()
    private.live_restore = False
    private.start()
    private_lab.store.server.start()
    handle = private_lab.submit(plan_of(COUNTS, private_lab.store.uri))
    private_lab.wait_for_line(handle)
    watcher = Watcher(private_lab, handle)
    wait_until(lambda: "ready" in lines(watcher.events))
    private.stop(number)
    private.start()
    outcome = watcher.outcome()
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert "node " in outcome.verdict.summary()
    again = private_lab.target.find(handle.job_id)
    assert again.attempt == 1
    private_lab.target.release(handle)
    assert private_lab.left(handle.job_id) == []


def test_a_full_disk_is_said_and_nothing_is_left(private: PrivateEngine, private_lab: DockerLab) -> None:
    plan = plan_of("print('x')", private_lab.store.uri)
    private_lab.wait(private_lab.submit(plan))  # the agent is on the engine
    filler = private.folder / "filler"
    _fill(filler)
    try:
        job_id = new_job_id()
        with pytest.raises(TargetError, match="no space left on device") as caught:
            private_lab.submit(plan, job_id)
        assert "\n" not in str(caught.value)
    finally:
        filler.unlink()
    assert private_lab.left(job_id) == []


def _fill(path: Path) -> None:
    with path.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), b"\0" * 65536)
        except OSError:
            pass
        try:
            while True:
                os.write(file.fileno(), b"\0")
        except OSError:
            pass
