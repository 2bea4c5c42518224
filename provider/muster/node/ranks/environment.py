"""Builds a rank's environment and argv on its node: resolves placeholders, adds ``MUSTER_*``, expands ``$NAME`` references."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings, resolve
from muster.core.plan import JobPlan, RankPlan
from muster.node.assignment import Assignment
from muster.node.ranks.supervisor import RankSpec

MARKER = "MUSTER_JOB"

_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


def rank_spec(
    assignment: Assignment,
    paths: NodePaths,
    rank: RankPlan,
    bindings: Bindings,
    secrets: Mapping[str, str],
    *,
    kept: Mapping[str, str] = MappingProxyType({}),
    spawner_identity: Mapping[str, str] = MappingProxyType({}),
) -> RankSpec:
    """Return one rank ready to run; ``kept`` are variables that its spawner has given it, ``spawner_identity`` the part of
    its identity that the spawner decides.

    ``$NAME`` in arguments stands for variables that the job itself has (its own, the launcher's, ``MUSTER_*``), nothing else:
    any other dollar sign, and every secret, stays as it was written.
    """
    local = {**bindings.local, "local_rank": str(rank.local_rank), "node": str(assignment.node)}
    bindings = dataclasses.replace(bindings, local=local)
    launcher = {name: value for name, text in rank.env if (value := resolve(text, bindings))}
    known = {**dict(assignment.plan.env), **launcher, **kept}
    known |= {**identity(assignment, paths, rank, bindings), **spawner_identity}
    argv = [expand(resolve(text, bindings), known) for text in rank.argv]
    env = {**inherited(assignment), **known, **secrets}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [library_path(), known.get("PYTHONPATH", "")]))
    return RankSpec(rank=rank.rank, argv=argv, env=env, cwd=str(paths.work), local_rank=rank.local_rank, decides=rank.decides)


def identity(assignment: Assignment, paths: NodePaths, rank: RankPlan, bindings: Bindings) -> dict[str, str]:
    """Return the ``MUSTER_*`` variables: who the rank is and where its folders are."""
    return {
        MARKER: assignment.id.marker,
        "MUSTER_RUN": assignment.job_id,
        "MUSTER_GENERATION": str(assignment.generation),
        "MUSTER_ATTEMPT": str(assignment.attempt),
        "MUSTER_NODE": str(assignment.node),
        "MUSTER_NODE_COUNT": str(len(assignment.plan.nodes)),
        "MUSTER_RANK": str(rank.rank),
        "MUSTER_LOCAL_RANK": str(rank.local_rank),
        "MUSTER_WORLD_SIZE": str(assignment.plan.world_size),
        "MUSTER_ROLE": rank.role,
        "MUSTER_HOSTS": ",".join(bindings.hosts),
        "MUSTER_METRICS": str(paths.metrics(rank.rank)),
        "MUSTER_OUTPUTS": str(paths.outputs),
        "MUSTER_LOGS": str(paths.logs),
        "MUSTER_CHECKPOINTS": str(paths.checkpoints),
    }


def inherited(assignment: Assignment) -> dict[str, str]:
    """Return what a rank inherits from its node: the agent's own clean environment, the interpreter first on PATH, its GPUs."""
    env = {"PYTHONUNBUFFERED": "1", **os.environ, "CUDA_VISIBLE_DEVICES": ",".join(assignment.gpus)}
    if assignment.interpreter:
        folder = Path(assignment.interpreter).parent
        env["PATH"] = _own_path(assignment.interpreter)
        if (folder.parent / "pyvenv.cfg").exists():
            env["VIRTUAL_ENV"] = str(folder.parent)
    return env


def search_path(plan: JobPlan, interpreter: str) -> str:
    """Return the PATH of the ranks, which is also that of their spawner."""
    return dict(plan.env).get("PATH") or _own_path(interpreter)


def _own_path(interpreter: str) -> str:
    path = os.environ.get("PATH") or os.defpath
    return f"{Path(interpreter).parent}{os.pathsep}{path}" if interpreter else path


def library_path() -> str:
    """Return the folder from which ranks import ``muster.tracking``."""
    return str(Path(__file__).resolve().parents[3])


def expand(argument: str, variables: Mapping[str, str]) -> str:
    """Replace ``$NAME`` and ``${NAME}`` by the values of known variables; leave unknown ones as they are."""
    return _REFERENCE.sub(lambda match: variables.get(match[1] or match[2], match[0]), argument)
