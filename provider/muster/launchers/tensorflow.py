"""TensorFlow's launcher: every task is started directly and finds the others in ``TF_CONFIG``.

Tasks are assigned to the nodes one by one: servers, chief, workers, evaluator. Several workers of one node see the same GPUs; a
script chooses its own by ``MUSTER_LOCAL_RANK``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from muster.core.job import Roles, TrainingJob
from muster.core.placeholder import Here, HostOf, Part, PortOf, Text
from muster.core.plan import NodePlan, PortRequest, RankPlan
from muster.launchers.contract import program

TF_CONFIG = "TF_CONFIG"
INTERFACE = "NCCL_SOCKET_IFNAME"
DEVICES = "CUDA_VISIBLE_DEVICES"
NO_DEVICES = "-1"
THREADS = "TF_NUM_INTRAOP_THREADS"  # not owned: a default that users may change

RESERVED = frozenset({TF_CONFIG, INTERFACE, DEVICES})

SERVER, CHIEF, WORKER, EVALUATOR = "ps", "chief", "worker", "evaluator"
PLACED = (SERVER, CHIEF, WORKER, EVALUATOR)
COUNTED = (CHIEF, WORKER, EVALUATOR, SERVER)  # so that rank 0 is the one that reports for all
IN_CLUSTER = (SERVER, CHIEF, WORKER)  # an evaluator stands beside the cluster that it evaluates
FIRST_PORT = 2222


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One task of the cluster, and where it runs; ``rank`` over all of them."""

    role: str
    index: int
    node: int
    rank: int

    @property
    def port(self) -> str:
        return f"{self.role}-{self.index}"


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Return every node with its tasks, ranks counted over chief, workers, evaluator and servers, in this order."""
    tasks = _tasks(job)
    return tuple(_node(job, tasks, node) for node in range(job.node_count))


def _tasks(job: TrainingJob) -> tuple[_Task, ...]:
    """Return all tasks by rank."""
    counts = _counts(job.roles)
    placed = [(role, index) for role in PLACED for index in range(counts[role])]
    counted = [(role, index) for role in COUNTED for index in range(counts[role])]
    nodes = {task: position % job.node_count for position, task in enumerate(placed)}
    return tuple(_Task(role=task[0], index=task[1], node=nodes[task], rank=rank) for rank, task in enumerate(counted))


def _counts(roles: Roles) -> dict[str, int]:
    return {SERVER: roles.servers, CHIEF: int(roles.chief), WORKER: roles.workers, EVALUATOR: int(roles.evaluator)}


def _node(job: TrainingJob, tasks: tuple[_Task, ...], node: int) -> NodePlan:
    own = [task for task in tasks if task.node == node]
    return NodePlan(
        node=node,
        ranks=tuple(_rank(job, tasks, task, local_rank) for local_rank, task in enumerate(own)),
        ports=tuple(PortRequest(name=task.port, near=FIRST_PORT) for task in _in_cluster(tasks) if task in own),
    )


def _rank(job: TrainingJob, tasks: tuple[_Task, ...], task: _Task, local_rank: int) -> RankPlan:
    env: tuple[tuple[str, Text], ...] = (
        *(((TF_CONFIG, _tf_config(tasks, task)),) if len(tasks) > 1 else ()),
        (INTERFACE, (Here(here="interface"),)),
        *(((DEVICES, NO_DEVICES),) if task.role == SERVER else ()),
        *_threads(job, tasks, task),
    )
    return RankPlan(
        rank=task.rank,
        local_rank=local_rank,
        argv=program(job),
        env=env,
        role=task.role,
        decides=task.role in (CHIEF, WORKER),
        awaited=not _serves_the_chief(job.roles, task),
    )


def _serves_the_chief(roles: Roles, task: _Task) -> bool:
    """Return whether the task only runs what a chief schedules, and so never ends by itself."""
    return task.role == WORKER and roles.chief and roles.servers > 0


def _threads(job: TrainingJob, tasks: tuple[_Task, ...], task: _Task) -> tuple[tuple[str, Text], ...]:
    """Keep several workers of one node from taking all its cores each."""
    is_set = THREADS in job.environment_variables or THREADS in job.secrets
    workers = [other for other in tasks if other.node == task.node and other.role in (CHIEF, WORKER)]
    return ((THREADS, "1"),) if len(workers) > 1 and task in workers and not is_set else ()


# -- the variable


def _tf_config(tasks: tuple[_Task, ...], task: _Task) -> tuple[Part, ...]:
    """Return the JSON of ``TF_CONFIG``, hosts and ports as placeholders; neither of them needs any escaping."""
    roles = [role for role in IN_CLUSTER if any(other.role == role for other in tasks)]
    cluster = _joined(", ", (_addresses(tasks, role) for role in roles))
    end = f'}}, "task": {{"type": "{task.role}", "index": {task.index}}}, "environment": "cloud"}}'
    return tuple(_merged(('{"cluster": {', *cluster, end)))


def _addresses(tasks: tuple[_Task, ...], role: str) -> tuple[Part, ...]:
    hosts = (_address(task) for task in tasks if task.role == role)
    return (f'"{role}": [', *_joined(", ", hosts), "]")


def _address(task: _Task) -> tuple[Part, ...]:
    return ('"', HostOf(host_of=task.node), ":", PortOf(port_of=task.node, port=task.port), '"')


def _in_cluster(tasks: tuple[_Task, ...]) -> tuple[_Task, ...]:
    return tuple(task for role in IN_CLUSTER for task in tasks if task.role == role) if len(tasks) > 1 else ()


def _joined(separator: str, items: Iterable[tuple[Part, ...]]) -> Iterator[Part]:
    for number, item in enumerate(items):
        yield from ((separator,) if number else ())
        yield from item


def _merged(parts: Iterable[Part]) -> Iterator[Part]:
    """Merge plain parts that follow each other."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        yield from ((text,) if text else ())
        yield part
        text = ""
    yield text
