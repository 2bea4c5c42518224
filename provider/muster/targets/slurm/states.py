"""Slurm's job states: the one table of what each means for a run, and of the reasons for which a job waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from muster.core.verdict import Cause


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Meaning of a state. ``over``: no process of the job is left, and Slurm will not start it again by itself.

    ``waits``: it has no nodes yet. ``cause``: of a run that ended so without a word of its agents. ``doubtful``: the moment
    before Slurm queues the job again looks the same, so it is believed when it is seen twice.
    """

    over: bool = False
    waits: bool = False
    cause: Cause = Cause.NODE
    doubtful: bool = False
    text: str = ""


WAITS = JobState(waits=True)
RUNS = JobState()
LOST = JobState(over=True, doubtful=True, text="is not known to Slurm any more")

STATES: Mapping[str, JobState] = MappingProxyType(
    {
        "PENDING": WAITS,
        "REQUEUED": WAITS,
        "REQUEUE_FED": WAITS,
        "REQUEUE_HOLD": WAITS,
        "RESV_DEL_HOLD": WAITS,
        "SPECIAL_EXIT": WAITS,
        "CONFIGURING": WAITS,
        "POWER_UP_NODE": WAITS,
        "RUNNING": RUNS,
        "COMPLETING": RUNS,
        "RESIZING": RUNS,
        "SIGNALING": RUNS,
        "STAGE_OUT": RUNS,
        "STOPPED": RUNS,
        "SUSPENDED": RUNS,
        "COMPLETED": JobState(over=True, text="has ended"),
        "FAILED": JobState(over=True, text="has failed"),
        "CANCELLED": JobState(over=True, cause=Cause.CANCEL, text="was cancelled outside Muster (scancel)"),
        "TIMEOUT": JobState(over=True, cause=Cause.DEADLINE, text="reached its time limit; all ranks were ended"),
        "DEADLINE": JobState(over=True, cause=Cause.DEADLINE, text="reached its deadline; all ranks were ended"),
        "OUT_OF_MEMORY": JobState(over=True, text="was ended for lack of memory"),
        "NODE_FAIL": JobState(over=True, doubtful=True, text="lost a node"),
        "BOOT_FAIL": JobState(over=True, doubtful=True, text="lost a node that could not boot"),
        "PREEMPTED": JobState(over=True, doubtful=True, text="was preempted"),
        "LAUNCH_FAILED": JobState(over=True, doubtful=True, text="could not be launched on its nodes"),
        "REVOKED": JobState(over=True, text="was moved to another cluster"),
    }
)
OUT_OF_MEMORY = "OUT_OF_MEMORY"
LOST_NODE = ("NODE_FAIL", "BOOT_FAIL")

# what a job waits for, in words; others are shown as Slurm names them
WAITING: Mapping[str, str] = MappingProxyType(
    {
        "None": "for the scheduler to look at it",
        "Resources": "for free nodes",
        "Priority": "behind jobs of higher priority",
        "BeginTime": "for its begin time",
        "Dependency": "for another job",
        "Licenses": "for licenses",
        "Reservation": "for its reservation",
        "ReqNodeNotAvail": "for nodes that are down, drained or reserved",
        "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": "for nodes to come back",
        "PartitionDown": "for its partition to be up",
        "PartitionInactive": "for its partition to be active",
        "JobHeldUser": "held by its user (scontrol release)",
        "JobHeldAdmin": "held by an administrator",
    }
)
# reasons for which a job would wait for ever: the request is wrong, and the job is withdrawn at once
NODE_LIMIT = "PartitionNodeLimit"  # also said while nodes are down that will come back
PARTITION_LIMITS = "PartitionConfig"  # some limit of the partition; which one is said a moment later
UNSEEN = ("", "None", PARTITION_LIMITS)  # the scheduler has not really looked at the job yet
HOPELESS: Mapping[str, str] = MappingProxyType(
    {
        NODE_LIMIT: "more nodes than its partition has or gives one job",
        PARTITION_LIMITS: "more than its partition allows a job",
        "PartitionTimeLimit": "a longer time than its partition allows",
        "BadConstraints": "what no node has",
        "AccountNotAllowed": "an account that may not use the partition",
        "QOSNotAllowed": "a QOS that may not be used here",
        "InvalidAccount": "an account that there is not",
        "InvalidQOS": "a QOS that there is not",
        "AssocMaxWallDurationPerJobLimit": "a longer time than its account allows",
        "QOSMaxWallDurationPerJobLimit": "a longer time than its QOS allows",
        "AssocMaxNodePerJobLimit": "more nodes than its account allows one job",
        "QOSMaxNodePerJobLimit": "more nodes than its QOS allows one job",
        "AssocMaxCpuPerJobLimit": "more CPUs than its account allows one job",
        "QOSMaxCpuPerJobLimit": "more CPUs than its QOS allows one job",
        "AssocMaxGRESPerJob": "more GPUs than its account allows one job",
        "QOSMaxGRESPerJob": "more GPUs than its QOS allows one job",
        "AssocMaxMemPerJob": "more memory than its account allows one job",
        "QOSMaxMemoryPerJob": "more memory than its QOS allows one job",
    }
)


def state_of(name: str) -> JobState:
    """Return what a state means; an unknown state counts as running, so that no job is given up for a new word."""
    return STATES.get(name.partition(" ")[0].rstrip("+"), RUNS)


def waiting_for(reason: str) -> str:
    """Return in words what a job waits for."""
    plain = reason.strip("()") or "None"
    known = WAITING.get(plain) or WAITING.get(plain.partition(",")[0])
    return f"{known} ({plain})" if known else plain
