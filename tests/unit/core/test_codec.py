"""Every box of the path round-trips through JSON, and newer writers can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from muster.core.codec import canonical, digest, from_data, to_data
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.job import Environment, Resources, TrainingJob
from muster.core.manifest import Manifest, ManifestFile
from muster.core.model_version import ModelVersion
from muster.core.placeholder import Bindings, Here, HostOf, PortOf, resolve
from muster.core.plan import EnvironmentRef, JobPlan, Limits, Needs, NodePlan, PortRequest, RankPlan
from muster.core.state import RunState
from muster.core.store_access import StoreAccess
from muster.core.verdict import Cause, Verdict
from muster.node.assignment import Assignment, AttemptRecord

PLAN = JobPlan(
    name="größe",
    framework="any",
    nodes=(
        NodePlan(
            node=0,
            ranks=(
                RankPlan(
                    rank=0,
                    local_rank=0,
                    argv=((Here(here="interpreter"),), "-u", "a b", "", '{"host_of": 0}'),
                    env=(("ADDR", (HostOf(host_of=0), ":", PortOf(port_of=0, port="master"))), ("PLAIN", "$x")),
                ),
                RankPlan(rank=1, local_rank=1, argv=("x",), role="server", decides=False),
            ),
            ports=(PortRequest(name="master", near=6105),),
        ),
    ),
    snapshot="sha256:1",
    environment=EnvironmentRef(digest="sha256:2", lock="a==1\n", python="3.11"),
    store="s3://bucket/prefix",
    env=(("A", "line\nbreak"),),
    secrets=("TOKEN",),
    needs=Needs(gpus=1, cpus=0.5, memory=1 << 30),
    limits=Limits(grace=1.0),
    resume_from="earlier",
    tags=(("team", "x"),),
    source=(("branch", "main"),),
)
VERDICT = Verdict(cause=Cause.RANK, detail="boom", node=1, host="b", rank=5, exit_code=1, others=31)
BOXES = [
    TrainingJob(
        name="x",
        framework="any",
        command=("a", ""),
        distributed_backend=None,
        environment=Environment(packages=("torch",)),
        resources=Resources(gpus=2, cpus=1.0),
        environment_variables={"A": "1"},
        secrets={"B": "conn"},
    ),
    PLAN,
    JobHandle(
        job_id="x", generation=2, attempt=3, target="here", plan_digest="sha256:1", store="s3://b", found=SubmitResult.ATTACHED
    ),
    Cursor(attempt=2, offsets=(0, 17)),
    VERDICT,
    Verdict(cause=Cause.RANK, signal=9),
    Manifest(
        run="x",
        generation=1,
        attempt=2,
        uri="s3://b/runs/x/g1",
        files=(ManifestFile(path="outputs/größe", size=0, sha256="00", key="runs/x/g1/outputs/größe", node=1, beside="y"),),
        metrics={"accuracy": 0.97},
    ),
    ModelVersion(name="m", version=1, uri="s3://b", run="x", manifest="sha256:1", metrics={"a": 1.0}, aliases=("best",)),
    StoreAccess(endpoint_url="http://x", access_key="k", secret_key="s"),
    Assignment(
        job_id="x",
        generation=1,
        attempt=2,
        node=0,
        target="here",
        store="s3://b",
        plan=PLAN,
        plan_digest=PLAN.digest(),
        addresses=("127.0.0.1", ""),
        deadline=1.5,
        requested=1.0,
        submitted=1.25,
        interpreter="/python",
        muster_python="/python",
        gpus=("0",),
        history=(AttemptRecord(attempt=1, state="Failed", verdict=to_data(VERDICT)),),
    ),
]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: type(box).__name__)
def test_a_box_round_trips_through_json(box: Any) -> None:
    data = json.loads(json.dumps(to_data(box)))
    assert from_data(type(box), data) == box
    assert json.loads(canonical(box)) == data
    assert digest(from_data(type(box), data)) == digest(box)


@pytest.mark.parametrize("box", BOXES, ids=lambda box: type(box).__name__)
def test_what_a_newer_writer_added_is_passed_over(box: Any) -> None:
    assert from_data(type(box), {**to_data(box), "of_a_later_release": [1]}) == box


@pytest.mark.parametrize("box", BOXES, ids=lambda box: type(box).__name__)
def test_what_is_missing_or_no_object_is_an_error(box: Any) -> None:
    with pytest.raises(ValueError, match="wants an object"):
        from_data(type(box), [1])


def test_a_missing_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="JobHandle"):
        from_data(JobHandle, {"job_id": "x"})


def test_text_that_looks_like_a_token_stays_text() -> None:
    bindings = Bindings(hosts=("a",), ports=({"master": 1},), local={"interpreter": "/python"})
    plan = from_data(JobPlan, json.loads(canonical(PLAN)))
    argv = [resolve(text, bindings) for text in plan.nodes[0].ranks[0].argv]
    assert argv == ["/python", "-u", "a b", "", '{"host_of": 0}']
    assert resolve(plan.nodes[0].ranks[0].env[0][1], bindings) == "a:1"


def test_a_digest_is_of_the_content_and_not_of_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({}).startswith("sha256:")


def test_a_plans_digest_leaves_out_what_decides_nothing() -> None:
    import dataclasses

    assert dataclasses.replace(PLAN, source=(), tags=()).digest() == PLAN.digest()
    assert dataclasses.replace(PLAN, env=()).digest() != PLAN.digest()


def test_credentials_are_not_shown() -> None:
    assert "hidden" not in repr(StoreAccess(access_key="hidden", secret_key="hidden", session_token="hidden"))


def test_events_and_cursors_have_a_text_form() -> None:
    event = Event(time=1.5, kind="line", node=1, data={"rank": 3, "text": "größe\n"})
    assert event.to_line().count("\n") == 1
    assert Event.from_line(event.to_line()) == event
    cursor = Cursor().moved(1, 17)
    assert cursor.to_text() == "0:0,17"
    assert Cursor.from_text(cursor.to_text()) == cursor
    assert Cursor.from_text("") == Cursor()


def test_enums_and_wrong_shapes() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Box:
        state: RunState

    assert from_data(Box, {"state": "Failed"}).state is RunState.FAILED
    with pytest.raises(ValueError):
        from_data(Verdict, {"cause": "no such cause"})


def test_a_number_that_no_float_holds_is_an_error_like_any_other() -> None:
    assert from_data(dict[str, float], {"loss": 1, "other": float("inf")}) == {"loss": 1.0, "other": float("inf")}
    with pytest.raises(ValueError, match="too large"):
        from_data(dict[str, float], {"loss": 10**400})
