"""How a run's end becomes the task's: the first line of an error names the first failure."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from muster.core.errors import RequestError, StoreError, StoreUnusable
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.operators.outcome import airflow_errors, failure
from muster.runner import Outcome
from muster.store.s3.errors import StoreUnavailable


def ended(state: RunState, cause: Cause | None = None, **verdict: object) -> Outcome:
    named = None if cause is None else Verdict(cause=cause, **verdict)  # type: ignore[arg-type]
    return Outcome(run="r", generation=1, state=state, verdict=named, uri="s3://b/runs/r/g1")


def test_a_completed_run_is_the_only_success() -> None:
    assert failure(ended(RunState.COMPLETED), retry=False) is None
    assert all(failure(ended(state), retry=False) is not None for state in RunState if state is not RunState.COMPLETED)


def test_the_first_line_names_node_rank_and_signal() -> None:
    outcome = ended(RunState.FAILED, Cause.RANK, rank=1, node=1, signal=9, others=1)
    first = str(failure(outcome, retry=False)).splitlines()[0]
    assert first == "rank 1 on node 1 failed first (signal 9 SIGKILL); 1 other was stopped"


@pytest.mark.parametrize(
    ("cause", "retry", "kind"),
    [
        (Cause.RANK, False, AirflowException),
        (Cause.NODE, False, AirflowException),
        (Cause.STORE, False, AirflowException),
        (Cause.REQUEST, False, AirflowFailException),
        (Cause.PREFLIGHT, False, AirflowFailException),
        (Cause.REQUEST, True, AirflowException),
    ],
)
def test_only_wrong_requests_are_never_retried(cause: Cause, retry: bool, kind: type[Exception]) -> None:
    assert type(failure(ended(RunState.FAILED, cause, detail="why"), retry=retry)) is kind


def test_a_passed_deadline_is_a_timeout_and_a_cancel_a_failure() -> None:
    assert type(failure(ended(RunState.CANCELED, Cause.DEADLINE, detail="late"), retry=False)) is AirflowTaskTimeout
    assert type(failure(ended(RunState.CANCELED, Cause.CANCEL, detail="told to"), retry=False)) is AirflowException


def test_a_wrong_request_is_explained_by_its_sentence_and_not_by_a_traceback() -> None:
    with pytest.raises(AirflowFailException) as raised, airflow_errors(retry=False):
        raise RequestError("say this")
    assert str(raised.value) == "say this"
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "retry", "kind"),
    [
        (RequestError("x"), False, AirflowFailException),
        (RequestError("x"), True, AirflowFailException),
        (StoreUnusable("x"), False, AirflowFailException),
        (StoreUnusable("x"), True, AirflowException),
        (StoreError("x"), False, AirflowException),
        (StoreUnavailable("x"), False, AirflowException),
    ],
)
def test_errors_of_muster_become_errors_of_airflow(error: Exception, retry: bool, kind: type[Exception]) -> None:
    with pytest.raises(AirflowException) as raised, airflow_errors(retry=retry):
        raise error
    assert type(raised.value) is kind
