"""What hosts keep for many jobs, launchers that die, and watchers that are slow."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hosts_lab import HostsLab
from lab import lines, plan_of
from muster.core.codec import to_data
from muster.core.errors import RequestError
from muster.core.event import Cursor
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.state import RunState
from muster.packaging.environment import lock

WAITS = "import time; print('here', flush=True); time.sleep(600)"


def test_an_environment_is_installed_once_on_each_host_without_an_index_there(hosts_lab: HostsLab, tmp_path: Path) -> None:
    ref = lock.lock_packages(["six==1.17.0"], python=sys.executable, cache=tmp_path / "cache", log=lambda line: None)
    code = "import six, sys; print(six.__version__, sys.prefix)"
    plan = replace(plan_of(code, hosts_lab.store.uri, nodes=3), environment=ref)
    log: list[str] = []
    target = hosts_lab.target
    target.prepare(plan, log.append)
    assert sum(line.startswith("building environment") for line in log) == 3
    outcome, events = hosts_lab.wait(target.submit(hosts_lab.submission(plan)))
    assert outcome.state is RunState.COMPLETED
    assert {line.split()[0] for line in lines(events)} == {"1.17.0"}
    assert all("/environments/" in line for line in lines(events))
    again: list[str] = []
    target.prepare(plan, again.append)
    assert again == []
    for host in hosts_lab.rack.hosts:
        assert list((hosts_lab.folder(host) / "packages").iterdir()) == [], "what was installed from is gone"


def test_an_environment_for_another_python_names_host_and_version(hosts_lab: HostsLab) -> None:
    ref = EnvironmentRef(digest=f"sha256:{'0' * 64}", lock="six==1.17.0\n", python="3.99")
    plan = replace(plan_of("", hosts_lab.store.uri), environment=ref)
    with pytest.raises(RequestError, match=r"made for Python 3.99, but host rack-1 \(.*\) has 3.\d+ \(.*\) and no python3.99"):
        hosts_lab.target.prepare(plan, lambda line: None)


DIES = """
import asyncio, json, os, signal, sys
from muster.core.codec import from_data
from muster.core.store_access import StoreAccess
from muster.core.plan import JobPlan
from muster.targets import open_target
from muster.targets.contract import Submission
from muster.targets.ssh.launch import Launch

config, plan, access, job = json.load(sys.stdin)
real, first = Launch._start, asyncio.Event()

async def dies(self, attempt, node, files):
    if node == 1:
        await first.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    await real(self, attempt, node, files)
    first.set()

Launch._start = dies
submission = Submission(job_id=job, generation=1, plan=from_data(JobPlan, plan), archive=None,
                        access=from_data(StoreAccess, access))
open_target({"type": "ssh", **config}).submit(submission)
"""


def orphaned(lab: HostsLab, job: str) -> JobPlan:
    """Have a job's launcher die when one of two agents has started; gives the job's plan."""
    plan = plan_of("import os; print('rank', os.environ['MUSTER_RANK'])", lab.store.uri, nodes=2)
    given = json.dumps([lab.config, to_data(plan), to_data(lab.store.access), job])
    died = subprocess.run([sys.executable, "-c", DIES], input=given, text=True, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert lab.queue() == [job]
    return plan


@pytest.mark.timeout(600)
def test_a_launcher_that_dies_in_mid_launch_is_followed_by_the_next(hosts_lab: HostsLab) -> None:
    job = f"orphan-{os.getpid()}"
    plan = orphaned(hosts_lab, job)
    handle = hosts_lab.submit(plan, job_id=job)
    assert (handle.found, handle.attempt) == ("attached", 1)
    outcome, events = hosts_lab.wait(handle, limit=400)
    assert outcome.state is RunState.COMPLETED
    assert sorted(lines(events)) == ["rank 0", "rank 1"]
    assert hosts_lab.living(handle) == []


@pytest.mark.timeout(600)
def test_a_job_whose_launcher_died_is_cancelled_for_good(hosts_lab: HostsLab) -> None:
    job = f"orphan-cancelled-{os.getpid()}"
    orphaned(hosts_lab, job)
    handle = hosts_lab.target.find(job)
    assert hosts_lab.target.cancel(handle, 1, "not wanted any more")
    assert hosts_lab.queue() == []
    assert hosts_lab.living(handle) == []
    outcome, _ = hosts_lab.wait(handle)
    assert outcome.state is RunState.CANCELED
    assert "not wanted any more" in outcome.verdict.summary()


def test_a_slow_watcher_holds_up_nobody_else_and_loses_nothing(hosts_lab: HostsLab) -> None:
    hosts_lab.timing["inbox_size"] = 1 << 18
    much = "for n in range(20_000): print('line', n, 'x' * 100)"
    slow = hosts_lab.submit(plan_of(much, hosts_lab.store.uri, nodes=1))
    quick = hosts_lab.submit(plan_of("print('quick')", hosts_lab.store.uri, nodes=1))

    async def both() -> list[str]:
        watching = hosts_lab.session().watch({slow: Cursor()})
        first = await anext(watching)
        seen = [event async for _, _, event in hosts_lab.session().watch({quick: Cursor()})]
        assert "quick" in lines(seen)
        return lines([first[2], *[event async for _, _, event in watching]])

    found = asyncio.run(asyncio.wait_for(both(), 240))
    assert [line.split()[1] for line in found] == [str(n) for n in range(20_000)]


def test_a_process_that_has_used_hosts_ends_at_once_and_says_nothing(hosts_lab: HostsLab) -> None:
    code = (
        "import json, sys\n"
        "from muster.targets import open_target\n"
        "target = open_target({'type': 'ssh', **json.load(sys.stdin)})\n"
        "try: target.find('nobody')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(hosts_lab.config),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "UnknownRun\n", "")


def test_agents_survive_the_process_that_started_them(hosts_lab: HostsLab) -> None:
    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri, nodes=2))
    hosts_lab.wait_for(handle, node=1)
    for host in hosts_lab.rack.hosts:
        host.drop_connections()
    assert hosts_lab.target.find(handle.job_id).attempt == 1
    assert len(hosts_lab.living(handle)) >= 2 * 3
    assert hosts_lab.target.cancel(handle, 1)
    assert hosts_lab.living(handle) == []
