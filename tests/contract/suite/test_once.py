"""A job is launched once, however often it is submitted, and whoever watches it goes on where the last one stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from contract.suite.table import case
from contract.suite.target_lab import TargetLab
from lab import counting, lines, new_job_id, plan_of
from muster.core.event import END, Cursor
from muster.core.state import RunState


@case("re-attach")
def test_re_attach(lab: TargetLab) -> None:
    plan = plan_of(counting(60, 150), lab.store.uri)
    handle = lab.submit(plan)
    assert handle.found == "launched"
    first, cursor = lab.watch_lines(handle, 40)
    again = lab.submit(plan, job_id=handle.job_id)
    assert (again.found, again.attempt) == ("attached", 1)
    assert lab.target.find(handle.job_id).attempt == 1
    second, cursor = lab.watch_lines(again, 71, Cursor.from_text(cursor.to_text()))
    lab.let_go(handle)
    third, _ = lab.jobs.watch(again, Cursor.from_text(cursor.to_text()))
    assert [event.kind for event in (*first, *second, *third)].count(END) == 1
    assert third[-1].kind == END
    for rank in (0, 1):
        assert lines([*first, *second, *third], rank) == [f"line {i}" for i in range(150)]
    taken = lab.submit(plan, job_id=handle.job_id)
    assert (taken.found, taken.attempt) == ("completed", 1)
    assert lab.finish(taken).outcome.state is RunState.COMPLETED


@case("double submit")
def test_double_submit(lab: TargetLab) -> None:
    plan = plan_of("import time; print('launched', flush=True); time.sleep(600)", lab.store.uri)
    job_id = new_job_id()
    with ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(lambda _: lab.submit(plan, job_id=job_id), range(4)))
    assert sorted(handle.found for handle in handles) == ["attached", "attached", "attached", "launched"]
    assert {handle.attempt for handle in handles} == {1}
    lab.watch_lines(handles[0], 2)
    assert lab.launches(handles[0]) == 1
    assert lab.target.cancel(handles[0], 1, "enough")
    ended = lab.finish(handles[0])
    assert ended.lines(0) == ended.lines(1) == ["launched"]
    assert ended.outcome.state is RunState.CANCELED
    assert "enough" in ended.verdict.summary()
    assert [attempt["attempt"] for attempt in lab.record(handles[0])["attempts"]] == [1]
