"""Checks of a target of SSH hosts: login, clock, Python, disk and GPUs of every host, all hosts at once."""

from __future__ import annotations

import asyncio
import time
from itertools import chain

from muster.core.errors import MusterError
from muster.core.finding import Finding
from muster.targets import checks
from muster.targets.hosts import host_files
from muster.targets.hosts.ssh_shell import SshShell
from muster.targets.ssh.inventory import Host, Inventory


async def check(inventory: Inventory) -> tuple[Finding, ...]:
    """Check every host over a new connection, so that changes since the last connection are seen."""
    return tuple(chain.from_iterable(await asyncio.gather(*(_check(host) for host in inventory.hosts))))


async def _check(host: Host) -> list[Finding]:
    try:
        shell = await host.login.open()
    except MusterError as error:
        return [Finding.refused(f"{host.name}: login", error)]
    try:
        return [
            Finding(what=f"{host.name}: login", fine=True, text=f"{shell.machine}, host key {_trust(host)}"),
            *await _inspect(host, shell),
        ]
    except MusterError as error:
        return [Finding.refused(f"{host.name}: commands", error)]
    finally:
        await shell.close()


async def _inspect(host: Host, shell: SshShell) -> list[Finding]:
    asked = time.time()
    there = await shell.run(["date", "+%s.%N"], limit=checks.LIMIT)
    answered = time.time()
    version = await shell.run([host.python, "--version"], limit=checks.LIMIT)
    findings = [
        checks.clock(f"{host.name}: clock", float(there.out or 0), asked, answered),
        checks.python(f"{host.name}: python", (version.out + version.err).decode(errors="replace"), host.python),
    ]
    if version.code:
        return findings
    seen = await host_files.inspect_host(shell, host.root, host.python)
    free = await shell.run(["df", "-Pk", seen.root], limit=checks.LIMIT)
    findings.append(checks.disk(f"{host.name}: disk", int(free.out.split()[-3]) << 10, seen.root))
    if host.gpus:
        smi = await shell.run(list(checks.NVIDIA_SMI), limit=checks.LIMIT)
        findings.append(checks.gpus(f"{host.name}: gpus", (smi.out or smi.err).decode(errors="replace"), host.gpus))
    return findings


def _trust(host: Host) -> str:
    return "verified" if host.login.host_key_check else "NOT checked (host_key_check = false)"
