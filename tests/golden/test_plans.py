"""Plans as reviewed text: the nodes that each launcher lays out for a job. ``MUSTER_UPDATE_GOLDEN=1`` writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from muster.core.codec import from_data, to_data
from muster.core.plan import NodePlan
from muster.launchers import launcher_of
from muster.request.configurations import PyTorchConfiguration, TensorflowConfiguration
from muster.request.training_job import training_job

FOLDER = Path(__file__).parent / "plans"
UPDATE = os.environ.get("MUSTER_UPDATE_GOLDEN") == "1"

REQUESTS: dict[str, dict[str, Any]] = {
    "pytorch-1x1": {"framework": "pytorch", "entry_script": "train.py"},
    "pytorch-2x2": {
        "framework": "pytorch",
        "entry_script": "fit/train.py",
        "node_count": "2",
        "process_count_per_node": 2,
        "distributed_backend": "Gloo",
        "script_params": {"--lr": 0.1, "--verbose": "", "--note": 'a "b"\n$HOME größe', "--empty-is-a-flag": ""},
    },
    "pytorch-object-form": {
        "framework": "pytorch",
        "command": ["torch-program", "", '{"host_of": 0}'],
        "distributed_training": PyTorchConfiguration(process_count=4, node_count=2),
        "network_interface": "ib0",
        "environment_variables": {"OMP_NUM_THREADS": "4"},
    },
    "pytorch-elastic-2to3x2": {
        "framework": "pytorch",
        "entry_script": "train.py",
        "process_count_per_node": 2,
        "distributed_backend": "gloo",
        "elastic": ["2", "3"],
    },
    "tensorflow-1x1": {"framework": "tensorflow", "entry_script": "train.py"},
    "tensorflow-ps": {
        "framework": "tensorflow",
        "entry_script": "train.py",
        "node_count": 2,
        "distributed_training": TensorflowConfiguration(worker_count=2, parameter_server_count=1),
        "arguments": ['{"cluster": "of the user"}', 'a "b"\n$HOME größe'],
    },
    "tensorflow-multi-worker": {
        "framework": "tensorflow",
        "entry_script": "train.py",
        "node_count": 2,
        "process_count_per_node": "2",
        "distributed_backend": "nccl",
    },
    "tensorflow-chief-evaluator": {
        "framework": "tensorflow",
        "command": ["tf-program"],
        "node_count": 2,
        "process_count_per_node": 2,
        "distributed_backend": "ps",
        "worker_count": 2,
        "parameter_server_count": 2,
        "chief": True,
        "evaluator": "true",
        "network_interface": "ib0",
    },
    "mpi-2x2": {
        "framework": "mpi",
        "entry_script": "fit/hello.py",
        "node_count": 2,
        "process_count_per_node": 2,
        "arguments": ['a "b"\n$HOME größe', ""],
        "mpi_arguments": ["--map-by", "node", "-x", "LD_PRELOAD"],
        "environment_variables": {"OMPI_MCA_btl": "self,tcp"},
    },
    "mpi-pytorch-1x2": {
        "framework": "pytorch",
        "command": ["torch-program"],
        "process_count_per_node": 2,
        "distributed_backend": "mpi",
        "network_interface": "ib0",
    },
    "any-2x1": {"framework": "any", "command": ["python", "-c", "pass"], "node_count": 2},
    "any-1x2": {"entry_script": "train.py", "arguments": ["--x", " "], "process_count_per_node": 2},
}


def laid_out(request: dict[str, Any]) -> list[Any]:
    job = training_job({**request, "store": "s3://bucket/prefix"}, base="/dags")
    return [to_data(node) for node in launcher_of(job).plan(job)]


def as_text(nodes: list[Any]) -> str:
    """Return the JSON with a line for each argument and variable, to be read by people."""
    return "[\n" + ",\n".join(map(_node_text, nodes)) + "\n]\n"


def _node_text(node: dict[str, Any]) -> str:
    ranks = ",\n".join(map(_rank_text, node["ranks"]))
    facts = ", ".join(f"{json.dumps(key)}: {json.dumps(node[key])}" for key in ("node", "ports"))
    return f' {{{facts},\n  "starter": {_starter_text(node["starter"])}, "ranks": [\n{ranks}\n ]}}'


def _starter_text(starter: dict[str, Any] | None) -> str:
    return "null" if starter is None else _rank_text(starter).strip()


def _rank_text(rank: dict[str, Any]) -> str:
    facts = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rank.items() if key not in ("argv", "env"))
    return f'  {{{facts},\n   "argv": {_list_text(rank["argv"])},\n   "env": {_list_text(rank["env"])}}}'


def _list_text(items: list[Any]) -> str:
    return "[" + ",".join(f"\n    {json.dumps(item, ensure_ascii=False)}" for item in items) + "]"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plan_is_the_reviewed_one(name: str) -> None:
    nodes, file = laid_out(REQUESTS[name]), FOLDER / f"{name}.json"
    if UPDATE:
        file.write_text(as_text(nodes), encoding="utf-8")
    reviewed = json.loads(file.read_text(encoding="utf-8"))
    assert nodes == reviewed, "if the change is meant: MUSTER_UPDATE_GOLDEN=1, and review the difference"
    assert [to_data(from_data(NodePlan, node)) for node in reviewed] == nodes


def test_no_reviewed_plan_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(REQUESTS)
