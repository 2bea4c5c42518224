"""Elastic PyTorch jobs for the lab: plans as the launcher lays them out, and a training that goes on when nodes come and go."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

from lab import Lab, plan_of
from muster.core.handle import JobHandle
from muster.core.job import TrainingJob
from muster.core.plan import CONTINUE, EnvironmentRef, JobPlan
from muster.launchers import launcher_of
from muster.node import processes
from muster.node.host import liveness

# every rank says from which epoch it goes on, and its weights at the end; rank 0 keeps the checkpoint. It trains until it has
# begun anew, which only a loss makes it do, so many epochs are done and so many ranks are there: it can't end before the loss
TRAIN = """
import hashlib, os, sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from muster.tracking import Run

epochs, wanted, every = int(sys.argv[1]), int(sys.argv[2]), int((*sys.argv, "1")[3])
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
assert (os.environ["MUSTER_RANK"], os.environ["MUSTER_WORLD_SIZE"]) == (str(rank), str(world))
last, begun = Path("checkpoints/last.pt"), Path("begun.txt")
weights, first = torch.zeros(8), 0
mine = torch.load(last) if last.exists() else {"epoch": -1}
known = [None] * world
dist.all_gather_object(known, (mine["epoch"], begun.exists()))
again = any(before for _, before in known)
begun.touch()
newest = max(range(world), key=lambda r: known[r][0])
if known[newest][0] >= 0:
    found = [mine if rank == newest else None]
    dist.broadcast_object_list(found, src=newest)
    weights, first = found[0]["weights"], found[0]["epoch"] + 1
print(f"begin {first} as {rank} of {world}", flush=True)
epoch = first
while epoch < epochs or world < wanted or not again:
    step = torch.full((8,), float(rank + 1))
    dist.all_reduce(step)
    weights = 0.9 * weights + 0.1 * step / world
    if rank == 0 and epoch % every == 0:
        torch.save({"epoch": epoch, "weights": weights}, "checkpoints/new.pt")
        os.replace("checkpoints/new.pt", last)
        Run.get_context().log("epoch", epoch, step=epoch)
    print(f"epoch {epoch}", flush=True)
    epoch += 1
    time.sleep(0.1)
print("weights", hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16], "of", world, flush=True)
Path("outputs", f"rank-{os.environ['MUSTER_NODE']}.txt").write_text("done")
Path("outputs", "same.txt").write_text("same")
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)
"""


def elastic_plan(
    code: str,
    store: str,
    bounds: tuple[int, int],
    *,
    ranks: int = 1,
    arguments: tuple[str, ...] = (),
    environment: EnvironmentRef,
    **limits: float,
) -> JobPlan:
    """Return a plan of ``bounds`` nodes with ``ranks`` processes each under torchrun that run ``code``."""
    least, most = bounds
    job = TrainingJob(
        name="lab",
        framework="pytorch",
        command=(environment.interpreter or "python", "-c", code, *arguments),
        node_count=most,
        min_node_count=least,
        process_count_per_node=ranks,
        distributed_backend="gloo",
    )
    return dataclasses.replace(
        plan_of(code, store, nodes=1, **limits),
        nodes=launcher_of(job).plan(job),
        environment=environment,
        on_node_loss=CONTINUE,
        min_nodes=least,
    )


def left(lab: Lab, handle: JobHandle) -> list[str]:
    """Return what still lives of a run, by its command line."""
    return [Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ") for pid in lab.living(handle)]


def kill_node(lab: Lab, handle: JobHandle, node: int) -> None:
    """Kill all that runs of a node at once: agent, guardian and the ranks that it has started last.

    They are stopped first, else one that lives a moment longer tells of the others' death.
    """
    paths = lab.paths(handle, node)
    started = [json.loads(line) for line in paths.events.read_text(encoding="utf-8").splitlines() if '"rank_start"' in line]
    newest = {event["rank"]: event["pid"] for event in started}
    pids = [*liveness.pids(str(paths.root)), *newest.values()]
    processes.send_signal(pids, signal.SIGSTOP)
    processes.send_signal(pids, signal.SIGKILL)
