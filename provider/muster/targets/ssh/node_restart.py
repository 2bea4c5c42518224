"""Starts the agent of a node that an elastic run has lost again where it was, if the run lives on."""

from __future__ import annotations

from muster.core.handle import JobHandle
from muster.node.host import node_control
from muster.node.host.gang_scheduler import LAUNCHED
from muster.node.host.node_control import InspectNodes, RestartNode
from muster.targets.ssh.jobs import SshJobs


async def restart_node(jobs: SshJobs, handle: JobHandle, node: int) -> bool:
    """Start a lost node on its host again; return whether it lives then, whoever has started it.

    Not if the run has ended, is being ended, or belongs to another attempt by now.

    :raises HostUnreachable: a host that has to be asked does not answer; it may again.
    """
    seen = await jobs.seen(handle.id)
    claim, entry = seen.claim, seen.entry
    assert claim is not None
    assert entry is not None
    if claim.id != handle.id or not seen.live or entry.state != LAUNCHED:
        return False
    leader, lost = entry.allocations[0], entry.allocations[node]
    [status] = await jobs.connection(leader.host).ask(node_control.PART, InspectNodes(folders=(leader.folder,)))
    if not status.alive or status.ending or status.end is not None:
        return False
    restart = RestartNode(folder=lost.folder, launch=entry.launch)
    return await jobs.connection(lost.host).ask(node_control.PART, restart)
