"""Two hundred jobs on one host, watched as a triggerer does: one connection, a loop that stays quick, ends seen at once."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import threading
import time
from pathlib import Path

from hosts_lab import HostsLab
from muster.core.codec import to_data
from muster.core.event import END, LINE, NODE_END, Cursor, Event
from muster.core.handle import JobHandle
from muster.targets.claim import Claim
from muster.targets.hosts.ssh_login import SshLogin

JOBS = 200


class Recorded:
    """Jobs whose agents replay recorded events: laid out on a host as a launch leaves them, all with one guardian."""

    def __init__(self, lab: HostsLab) -> None:
        self.lab = lab
        self.host = lab.rack.hosts[0]
        self.root = lab.folder(self.host)
        self.guardian = json.loads(self._on_host("sleep 600 >/dev/null 2>&1 & cut -d' ' -f22 /proc/$!/stat; echo $!"))
        self.handles: list[JobHandle] = []
        self.logs: list[Path] = []

    def _on_host(self, command: str) -> str:
        async def run() -> str:
            config = self.lab.config
            shell = await SshLogin.from_fields({**config, "host": self.host.address}).open()
            done = await shell.run(["sh", "-c", command])
            await shell.close()
            return done.out.decode()

        start, pid = asyncio.run(run()).split()
        return json.dumps({"pid": int(pid), "start": int(start)})

    def lay_out(self) -> None:
        entries = []
        for number in range(JOBS):
            job = f"recorded-{number}"
            folder = self.root / "jobs" / job / "g1-a1" / "node-0"
            folder.mkdir(parents=True)
            (folder / "guardian.json").write_text(json.dumps(self.guardian))
            (folder / "assignment.json").write_text(json.dumps({"job_id": job, "generation": 1, "attempt": 1}))
            self.logs.append(folder / "events.jsonl")
            self.logs[-1].touch()
            now = time.time()
            claim = Claim(
                job_id=job,
                generation=1,
                attempt=1,
                plan_digest="d",
                store="s3://b/p",
                nodes=1,
                submitted=now,
                first_started=now,
            )
            (self.root / "jobs" / job / "claim.json").write_text(json.dumps(to_data(claim)))
            there = f"/root/{self.lab.root.removeprefix('~/')}/jobs/{job}/g1-a1/node-0"
            asked = {"number": number, "job": job, "generation": 1, "attempt": 1, "nodes": 1, "slots": 1, "gpus": 0}
            held = {"allocations": [{"host": self.host.name, "gpus": [], "folder": there}], "held": [], "excluded": {}}
            rest = {
                "since": now,
                "seen": now,
                "launch": 1,
                "launcher": "",
                "until": 0.0,
                "bundle": "/none",
                "state": "launched",
            }
            entries.append({**asked, **held, **rest})
            self.handles.append(claim.handle("ssh", "launched"))
        (self.root / "queue.json").write_text(json.dumps({"next": JOBS + 1, "entries": entries}))

    def append(self, *events: Event) -> None:
        for log in self.logs:
            with log.open("a") as file:
                file.write("".join(event.to_line() for event in events))

    def end(self) -> float:
        """End all jobs at once; gives when."""
        end = {"state": "Completed", "verdict": None, "manifest": None, "digest": None, "uri": "", "metrics": {}, "files": 0}
        now = time.time()
        self.append(Event(time=now, kind=END, node=0, data=end), Event(time=now, kind=NODE_END, node=0))
        asyncio.run(self._kill())
        return time.monotonic()

    async def _kill(self) -> None:
        shell = await SshLogin.from_fields({**self.lab.config, "host": self.host.address}).open()
        await shell.run(["kill", "-9", str(self.guardian["pid"])])
        await shell.close()


def resident() -> float:
    """Return the memory of this process that is in use, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def test_two_hundred_jobs_are_watched_over_one_connection(hosts_lab: HostsLab) -> None:
    hosts_lab.hosts = (hosts_lab.rack.hosts[0].name,)
    hosts_lab.until_idle()
    hosts_lab.run("print('the agent is there')", nodes=1)
    recorded = Recorded(hosts_lab)
    recorded.lay_out()
    threads = threading.active_count()  # those of earlier tests
    delays: list[float] = []
    ends: list[float] = []
    counts: list[int] = []
    heard = [0]
    connections: list[int] = []

    async def trigger(handle: JobHandle) -> None:
        lines = 0
        async for _, _, event in hosts_lab.target.session().watch({handle: Cursor()}):
            lines += event.kind == LINE
            heard[0] += event.kind == LINE
        counts.append(lines)
        ends.append(time.monotonic())

    async def measure() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            delays.append(time.monotonic() - began - 0.01)

    async def triggerer() -> tuple[float, float]:
        before = resident()
        measuring = asyncio.create_task(measure())
        triggers = [asyncio.create_task(trigger(handle)) for handle in recorded.handles]
        for number in range(10):
            line = Event(time=time.time(), kind=LINE, node=0, data={"rank": 0, "text": f"step {number}"})
            await asyncio.to_thread(recorded.append, line)
            while heard[0] < JOBS * (number + 1):
                await asyncio.sleep(0.1)
            connections.append(await asyncio.to_thread(recorded.host.connections))
        megabytes = (resident() - before) / JOBS
        ended = await asyncio.to_thread(recorded.end)
        await asyncio.wait_for(asyncio.gather(*triggers), 240)
        measuring.cancel()
        return ended, megabytes

    ended, megabytes = asyncio.run(triggerer())
    delay = statistics.quantiles(delays, n=100)[98]
    told = f"delay p99 {delay * 1000:.0f} ms, last end after {max(ends) - ended:.2f} s, {megabytes:.2f} MB a job"
    print(told)
    assert counts == [10] * JOBS
    assert connections[-5:] == [1] * 5, connections
    assert megabytes < 1, told
    assert threading.active_count() < threads + JOBS // 2, "no thread for each job"
