"""What ``elastic`` may be, and what it says about the other parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from muster.core.errors import RequestError
from muster.core.job import TrainingJob
from muster.core.manifest import Manifest
from muster.request.configurations import PyTorchConfiguration
from muster.request.training_job import training_job


def asked(**more: Any) -> TrainingJob:
    given = {"framework": "pytorch", "entry_script": "t.py", "store": "s3://b/p", "distributed_backend": "gloo", **more}
    return training_job(given, base="/dags")


@pytest.mark.parametrize("value", [(2, 4), [2, 4], ("2", "4"), "2:4", "(2, 4)", " 2 , 4 ", "[2, 4]"])
def test_bounds_are_the_least_and_the_most_nodes(value: Any) -> None:
    job = asked(elastic=value)
    assert (job.min_node_count, job.node_count, job.elastic) == (2, 4, True)


@pytest.mark.parametrize("value", [None, "", ()])
def test_without_bounds_the_loss_of_a_node_ends_the_run(value: Any) -> None:
    job = asked(elastic=value, node_count=3)
    assert (job.min_node_count, job.node_count, job.elastic) == (0, 3, False)


@pytest.mark.parametrize("count", [1, "1", 4, "4"])
def test_the_node_count_may_be_left_out_or_say_the_same(count: Any) -> None:
    assert asked(elastic=(2, 4), node_count=count).node_count == 4


def test_the_object_form_must_say_the_same() -> None:
    form = PyTorchConfiguration(communication_backend="Gloo", process_count=8, node_count=4)
    job = asked(elastic=(2, 4), distributed_backend=None, distributed_training=form)
    assert (job.node_count, job.process_count_per_node) == (4, 2)
    with pytest.raises(RequestError, match="node_count is 4, but elastic allows at most 3"):
        asked(elastic=(2, 3), distributed_backend=None, distributed_training=form)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"elastic": (3, 2)}, r"elastic is \(3, 2\), its min is more than its max"),
        ({"elastic": (0, 2)}, "elastic's min must be a whole number from 1 on, got 0"),
        ({"elastic": (2, "x")}, "elastic's max must be a whole number from 1 on, got 'x'"),
        ({"elastic": 3}, r"elastic must be \(min, max\), got 3"),
        ({"elastic": "3"}, r"elastic must be \(min, max\), got '3'"),
        ({"elastic": (1, 2, 3)}, r"elastic must be \(min, max\)"),
        ({"elastic": (2, 4), "node_count": 3}, "node_count is 3, but elastic allows at most 4 nodes; leave node_count out"),
        ({"elastic": (1, 2), "framework": "tensorflow", "distributed_backend": "nccl"}, "framework 'tensorflow' can't go on"),
        ({"elastic": (1, 2), "distributed_backend": "mpi"}, "'mpi' can't be elastic"),
        ({"elastic": (1, 2), "distributed_backend": None}, "distributed_backend is None with node_count 2"),
        ({"elastic": (1, 2), "environment_variables": {"GROUP_RANK": "1"}}, ""),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_launched(more: dict[str, Any], message: str) -> None:
    if message:
        with pytest.raises(RequestError, match=message):
            asked(**more)
    else:
        from muster.launchers import check_job

        with pytest.raises(RequestError, match="GROUP_RANK, but the torchrun launcher owns"):
            check_job(asked(**more))


def test_a_manifest_from_which_no_node_is_missing_has_the_digest_that_it_always_had() -> None:
    whole = Manifest(run="r", generation=1, attempt=1, uri="s3://b/p/runs/r/g1", files=())
    assert whole.digest() == "sha256:7a2c51a8065b66665831982e7deba322951dffeebbad57cf3a7db670243bc86d"
    assert dataclasses.replace(whole, missing=(1,)).digest() != whole.digest()
