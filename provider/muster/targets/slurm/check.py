"""Checks of a Slurm cluster: login node, shared folder, Slurm's commands, the partition with its nodes and GPUs."""

from __future__ import annotations

from muster.core.errors import MusterError, RequestError
from muster.core.finding import Finding
from muster.core.job import Mount
from muster.targets.slurm.cluster import Cluster

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo")
UP = ("idle", "mixed", "allocated", "completing", "planned")


async def check(cluster: Cluster) -> tuple[Finding, ...]:
    """Check a cluster; what can't be checked is a finding as well."""
    try:
        seen = await cluster.connection.inspect()
    except MusterError as error:
        return (
            Finding(what="login node", fine=False, text=str(error), remedy="correct login, host or python of the connection"),
        )
    name = cluster.connection.host.name
    found = [Finding(what="login node", fine=True, text=f"{name}: Python {seen.version}, Muster below {seen.root}")]
    try:
        version = (await cluster.output(["sinfo", "--version"])).strip()
        found.append(Finding(what="slurm", fine=True, text=version))
        found.extend(await _partition(cluster))
        found.append(await _accounting(cluster))
    except MusterError as error:
        remedy = "name the folder of Slurm's commands by bin, and see that slurmctld answers"
        found.append(Finding(what="slurm", fine=False, text=str(error), remedy=remedy))
    return tuple(found)


async def check_mounts(cluster: Cluster, mounts: tuple[Mount, ...], target: str) -> None:
    """Refuse folders that the nodes can't have, as far as the login node knows.

    :raises RequestError: one that is to have another name on the nodes, or that there is not.
    """
    for mount in mounts:
        if mount.source != mount.target:
            raise RequestError(
                f"mounts: {mount.source!r} can't be shown at {mount.target!r} on target {target!r}, whose nodes share folders "
                "under one name; use the same path for both, or bind it in the connection's wrapper"
            )
        argv = ["test", "-d", mount.source]
        if (await cluster.connection.use(lambda shell, argv=argv: shell.run(argv))).code:  # type: ignore[misc]
            login_node = cluster.connection.host.name
            raise RequestError(
                f"mounts: there is no folder {mount.source!r} on the login node {login_node}; mount or make it first"
            )


async def _partition(cluster: Cluster) -> list[Finding]:
    rows = [
        line.split("|") for line in (await cluster.output(["sinfo", "--noheader", "--format=%P|%a|%l|%D|%T|%G"])).splitlines()
    ]
    wanted = cluster.options.partition
    own = [row for row in rows if len(row) == 6 and (row[0].rstrip("*") == wanted if wanted else row[0].endswith("*"))]
    if not own:
        names = ", ".join(sorted({row[0].rstrip("*") for row in rows}))
        text = f"there is no partition {wanted!r}" if wanted else "the cluster has no default partition"
        return [
            Finding(what="partition", fine=False, text=f"{text}; there are {names}", remedy="name one of them by partition")
        ]
    usable = sum(int(row[3]) for row in own if row[4].rstrip("*~#$@+") in UP)
    total, (name, state, limit, *_) = sum(int(row[3]) for row in own), own[0]
    text = f"{name.rstrip('*')} is {state}, {usable} of {total} nodes can be used, time limit {limit}"
    partition = Finding.of("partition", state == "up" and usable > 0, text, "choose another partition, or have it brought up")
    gres = sorted({row[5] for row in own if row[5] not in ("", "(null)")})
    return [partition, Finding(what="gpus", fine=True, text=", ".join(gres) or "no GRES on these nodes")]


async def _accounting(cluster: Cluster) -> Finding:
    done = await cluster.command(["sacct", "--allocations", "--noheader", "--starttime=now"])
    text = "sacct answers" if done.code == 0 else f"sacct: {done.message}"
    remedy = "jobs that squeue has forgotten can't be looked up without; raise MinJobAge, or set slurmdbd up"
    return Finding(what="accounting", fine=True, text=text, remedy="" if done.code == 0 else remedy)
