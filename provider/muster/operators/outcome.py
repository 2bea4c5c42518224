"""Turns the outcome of a run into the end of an Airflow task: result, asset events, or exception."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import Asset, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from muster.core.errors import MusterError, RequestError, StoreUnusable
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.runner import Outcome

# decided by the request alone: another try would end the same way
_WRONG_REQUEST = (Cause.REQUEST, Cause.PREFLIGHT)


def failure(outcome: Outcome, *, retry: bool) -> BaseException | None:
    """Return the exception to raise for an outcome; None for a completed run.

    The first line names the first failure. ``retry``: whether an earlier try of this generation ran, which shows that the
    request itself was right. Only ``Completed`` is a success.
    """
    if outcome.state is RunState.COMPLETED:
        return None
    verdict = outcome.verdict or Verdict(
        cause=Cause.NODE, detail=f"the run ended {outcome.state.value}, and reported no reason"
    )
    text = f"{verdict.summary()}\nrun {outcome.run} is {outcome.state.value}; its record, logs and files: {outcome.uri}"
    if verdict.cause is Cause.DEADLINE:
        return AirflowTaskTimeout(text)
    if verdict.cause in _WRONG_REQUEST and not retry:
        return AirflowFailException(text)
    return AirflowException(text)


@contextmanager
def airflow_errors(*, retry: bool) -> Iterator[None]:
    """Raise Muster's errors as Airflow's: a wrong request is never retried; all else may be, such as an unreachable store.

    On a retry the store was usable when the job was launched; one that refuses now must not fail a task for good whose job is
    running. A wrong request is explained by its sentence; the traceback of its check stays out of the task log.
    """
    try:
        yield
    except StoreUnusable as error:
        raise (AirflowException if retry else AirflowFailException)(str(error)) from error
    except RequestError as error:
        raise AirflowFailException(str(error)) from None
    except MusterError as error:
        raise AirflowException(str(error)) from error


def result(outcome: Outcome, reference: dict[str, Any]) -> dict[str, Any]:
    """Return the task's return value: the run reference and the run's results."""
    given = {"uri": outcome.uri, "manifest": outcome.manifest, "digest": outcome.digest, "metrics": dict(outcome.metrics or {})}
    return {**reference, "state": outcome.state.value, **given}


def emit(context: Context, outlets: Iterable[Any], extra: dict[str, Any]) -> None:
    """Add ``extra`` to the event of every outlet that is an asset."""
    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(extra)
