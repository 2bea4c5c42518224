"""What goes wrong with SSH hosts: keys, logins, lost connections, reboots; each named, and nothing left behind."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path

import pytest

from hosts_lab import HostsLab
from lab import lines, notes, plan_of
from muster.core.errors import RequestError, TargetError
from muster.core.event import Cursor
from muster.core.plan import Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from store_server import wait_until

WAITS = "import time; print('here', flush=True); time.sleep(600)"
# waits at three lines for a word from the test
COUNTS = """
import pathlib, time
for n in range(120):
    print("line", n, flush=True)
    while n in (20, 60, 90) and not pathlib.Path(f"go-{n}").exists(): time.sleep(0.05)
"""


def left(lab: HostsLab) -> list[str]:
    """Return what a refused job has left on any host, but caches."""
    jobs = [str(path) for host in lab.rack.hosts for path in lab.folder(host).glob("jobs/*/g*/node-*")]
    return jobs + lab.queue()


def test_a_changed_host_key_is_refused_by_name(hosts_lab: HostsLab) -> None:
    known = hosts_lab.rack.known_hosts
    third = hosts_lab.rack.hosts[2]
    third.crash()
    third.change_key()
    third.boot()
    hosts_lab.fields = {"known_hosts": known}
    with pytest.raises(RequestError, match=r"the host key of rack-3 \(.*\) has CHANGED.* expects ssh-ed25519 SHA256:"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, nodes=3))
    assert left(hosts_lab) == []


def test_an_unknown_host_key_is_refused_with_what_it_shows(hosts_lab: HostsLab) -> None:
    hosts_lab.fields = {"known_hosts": "# nobody\n"}
    with pytest.raises(RequestError, match=r"the host key of rack-1 \(.*\) is not known \(it shows ssh-ed25519 SHA256:"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri))
    hosts_lab.fields = {"known_hosts": "", "host_key_check": "false"}
    assert hosts_lab.run("print('trusted')")[0].state is RunState.COMPLETED


def test_an_unknown_host_is_named(hosts_lab: HostsLab) -> None:
    hosts_lab.extra = {"rack-2": {"host": "no-such-host.invalid"}}
    with pytest.raises(RequestError, match=r"host rack-2 \(no-such-host.invalid\) is unknown"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, nodes=3))
    assert left(hosts_lab) == []


def test_a_refused_key_is_named(hosts_lab: HostsLab, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    hosts_lab.extra = {"rack-2": {"key_file": str(tmp_path / "other")}}
    with pytest.raises(RequestError, match=r"host rack-2 \(.*\) refused the login of user 'root'"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, nodes=3))
    assert left(hosts_lab) == []


def test_a_host_that_is_down_is_named_and_a_spare_one_takes_its_place(hosts_lab: HostsLab) -> None:
    hosts_lab.rack.hosts[1].crash()
    with pytest.raises(TargetError, match=r"host rack-2 \(.*\) refused the connection|host rack-2 .*did not answer"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, nodes=3))
    assert left(hosts_lab) == []
    hosts_lab.extra = {"rack-3": {"spare": True}}
    handle = hosts_lab.submit(plan_of("import socket; print(socket.gethostname())", hosts_lab.store.uri, nodes=2))
    outcome, events = hosts_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED
    assert sorted(lines(events)) == ["rack-1", "rack-3"]
    assert "host rack-2 was replaced" in notes(events)


def test_a_host_that_does_not_fit_is_replaced_by_a_spare_one_before_anything_starts(hosts_lab: HostsLab) -> None:
    hosts_lab.extra = {"rack-3": {"spare": True}}
    hosts_lab.rack.hosts[1].give_gpus(1)
    try:
        code = "import socket; print(socket.gethostname())"
        outcome, events = hosts_lab.run(code, nodes=2, needs=Needs(gpus=2))
    finally:
        hosts_lab.rack.hosts[1].give_gpus(4)
    assert outcome.state is RunState.COMPLETED
    assert sorted(lines(events)) == ["rack-1", "rack-3"]
    assert "host rack-2 was replaced: host rack-2 does not fit: 2 GPUs were asked for, it has 1" in notes(events)


def test_a_host_without_python_is_named(hosts_lab: HostsLab) -> None:
    hosts_lab.extra = {"rack-2": {"python": "/opt/none/python3"}}
    with pytest.raises(RequestError, match=r"host rack-2 \(.*\) can't run '/opt/none/python3'.*install Python 3.10"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, nodes=3))
    assert left(hosts_lab) == []


def test_a_connection_that_is_lost_in_mid_job_costs_no_event_and_doubles_none(hosts_lab: HostsLab) -> None:
    handle = hosts_lab.submit(plan_of(COUNTS, hosts_lab.store.uri, nodes=3))
    dropped: list[int] = []

    def drop() -> None:
        for number in (20, 60, 90):
            hosts_lab.wait_for(handle, f"line {number}")
            wait_until(lambda: all(host.connections() for host in hosts_lab.rack.hosts), what="all are connected")
            dropped.append(sum(host.drop_connections() for host in hosts_lab.rack.hosts))
            hosts_lab.let_go(handle, f"go-{number}")

    dropping = threading.Thread(target=drop)
    dropping.start()
    outcome, events = hosts_lab.wait(handle)
    dropping.join()
    assert min(dropped) >= 3, "the test has dropped too little"
    assert outcome.state is RunState.COMPLETED
    for rank in range(3):
        assert lines(events, rank) == [f"line {n}" for n in range(120)]


def test_a_network_that_is_away_for_a_while_is_told_and_the_job_goes_on(
    hosts_lab: HostsLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from muster.targets.hosts import log_client

    hosts_lab.timing["not_responding"] = 1.0
    monkeypatch.setattr(log_client, "SILENCE", 6.0)
    code = "import time, pathlib\nprint('here', flush=True)\nwhile not pathlib.Path('go').exists(): time.sleep(0.1)"
    handle = hosts_lab.submit(plan_of(code, hosts_lab.store.uri, nodes=1))
    hosts_lab.wait_for(handle)
    host, folder = hosts_lab.node(handle)
    states: list[str] = []

    async def watch() -> None:
        async for _, _, event in hosts_lab.session().watch({handle: Cursor()}):
            if event.kind == "state":
                states.append(event.data["state"])
            if event.kind == "line" and not states.count("unplugged"):
                states.append("unplugged")
                await asyncio.to_thread(host.unplug)
            if "unplugged" in states and states[-1] == "NotResponding":
                await asyncio.to_thread(host.plug)
                (folder / "work" / "go").touch()

    asyncio.run(asyncio.wait_for(watch(), 240))
    rest = states[states.index("unplugged") :]
    assert "NotResponding" in rest[: rest.index("Finalizing")]


@pytest.mark.parametrize("number", [0, 1], ids=["the leader's", "a follower's"])
def test_a_host_that_is_rebooted_in_mid_job_ends_it_by_name(hosts_lab: HostsLab, number: int) -> None:
    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri, nodes=3))
    for node in range(3):
        hosts_lab.wait_for(handle, node=node)
    host, _ = hosts_lab.node(handle, number)
    rebooting = threading.Timer(0.5, host.reboot)
    rebooting.start()
    outcome, _ = hosts_lab.wait(handle)
    rebooting.join()
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert (outcome.verdict.node, outcome.verdict.host) == (number, host.name)
    assert "rebooted" in outcome.verdict.summary()
    assert hosts_lab.living(handle) == []


@pytest.mark.parametrize("number", [0, 1], ids=["the leader's", "a follower's"])
def test_a_host_that_goes_for_good_ends_the_job_by_name(hosts_lab: HostsLab, number: int) -> None:
    hosts_lab.timing["given_up"] = 5.0
    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri, nodes=2))
    for node in range(2):
        hosts_lab.wait_for(handle, node=node)
    host, _ = hosts_lab.node(handle, number)
    crashing = threading.Timer(0.5, host.crash)
    crashing.start()
    outcome, _ = hosts_lab.wait(handle)
    crashing.join()
    assert outcome.state is RunState.FAILED
    assert (outcome.verdict.cause, outcome.verdict.node, outcome.verdict.host) == (Cause.NODE, number, host.name)
    assert f"host {host.name} does not answer" in outcome.verdict.summary()
    assert hosts_lab.living(handle) == []


def test_agents_killed_with_their_guardians_leave_no_rank(hosts_lab: HostsLab) -> None:
    from muster.node import processes

    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri, nodes=1))
    hosts_lab.wait_for(handle)
    ours = [p for p in hosts_lab.living(handle) if b"start.py" in Path(f"/proc/{p}/cmdline").read_bytes()]
    processes.send_signal(ours, 9)
    outcome, _ = hosts_lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert "gone without a word" in outcome.verdict.summary()
    wait_until(lambda: hosts_lab.living(handle) == [], what="nothing of the run is left")


def test_check_names_every_host_and_what_is_wrong_with_it(hosts_lab: HostsLab) -> None:
    hosts_lab.rack.hosts[1].give_gpus(2)
    hosts_lab.rack.hosts[2].crash()
    try:
        found = {finding.what: finding for finding in hosts_lab.target.check()}
    finally:
        hosts_lab.rack.hosts[1].give_gpus(4)
    assert all(found[f"rack-1: {what}"].fine for what in ("login", "clock", "python", "disk", "gpus"))
    assert not found["rack-2: gpus"].fine
    assert not found["rack-3: login"].fine
    assert "start it" in found["rack-3: login"].remedy
