"""Outputs that the store could not take lie on their hosts, and are stored later whatever befalls the attempts to do so."""

from __future__ import annotations

from typing import Any

import pytest

from hosts_lab import HostsLab
from lab import plan_of
from muster.core.errors import RequestError, TargetError
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.targets.ssh.launch import Launch

CODE = (
    "import os, pathlib, time\n"
    "print('ready', flush=True)\n"
    "while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
    "pathlib.Path('outputs', 'part-' + os.environ['MUSTER_RANK']).write_text('kept')"
)


def uncommitted(lab: HostsLab) -> JobHandle:
    """Have two nodes complete while the store is away."""
    handle = lab.submit(plan_of(CODE, lab.store.uri, nodes=2, store_patience=6.0))
    for node in range(2):
        lab.wait_for(handle, node=node)
    lab.store.server.stop()
    try:
        lab.let_go(handle)
        lab.wait_for(handle, "the outputs could not be stored")
    finally:
        lab.store.server.start()
    outcome, _ = lab.wait(handle)
    assert outcome.verdict is not None
    assert outcome.verdict.cause.value == "store"
    return handle


def kept(lab: HostsLab, handle: JobHandle) -> list[str]:
    """Return what ranks left on all hosts."""
    return sorted(f.name for h in lab.rack.hosts for f in lab.folder(h).glob(f"jobs/{handle.job_id}/g*/node-*/work/outputs/*"))


def test_outputs_outlive_commits_that_fail_on_a_host_and_are_stored_by_one_that_does_not(
    hosts_lab: HostsLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = uncommitted(hosts_lab)
    start = Launch._start

    async def fails(self: Launch, attempt: Any, node: int, files: Any) -> None:
        if node == 1:
            raise RequestError("host rack-2: its disk is full")
        await start(self, attempt, node, files)

    def commit() -> JobHandle:
        return hosts_lab.target.commit(hosts_lab.target.find(handle.job_id), hosts_lab.store.access)

    with monkeypatch.context() as broken:
        broken.setattr(Launch, "_start", fails)
        with pytest.raises(RequestError, match="its disk is full"):
            commit()
    assert kept(hosts_lab, handle) == ["part-0", "part-1"]
    hosts_lab.rack.hosts[1].crash()
    with pytest.raises(TargetError, match="rack-2"):
        commit()
    hosts_lab.rack.hosts[1].boot()
    assert kept(hosts_lab, handle) == ["part-0", "part-1"]
    assert hosts_lab.queue() == []
    outcome, _ = hosts_lab.wait(commit())
    assert outcome.state is RunState.COMPLETED
    stored = hosts_lab.store.open().manifest(handle.job_id, 1)
    assert stored is not None
    assert {"outputs/part-0", "outputs/part-1"} <= {file.path for file in stored.files}
