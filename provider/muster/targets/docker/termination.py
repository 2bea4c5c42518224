"""Ends attempts on an engine: agents get a cancel request and SIGTERM, what outlives its timeout is killed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from muster.core.attempt import AttemptId
from muster.core.errors import TargetError
from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest
from muster.targets.docker.containers import LIVING, AttemptContainers, Container, Jobs, each
from muster.targets.docker.errors import explained
from muster.targets.docker.node_files import cancel_file

if TYPE_CHECKING:
    from docker import APIClient

LAUNCH_TIME = 60.0  # seconds after which a container that was created and not started has no submit behind it
KILL_TIME = 20.0  # seconds for the engine to end what was killed
POLL_INTERVAL = 0.05


def end(client: APIClient, engine_url: str, attempt: AttemptContainers, reason: str, timeout: float) -> None:
    """End an attempt; what outlives ``timeout`` seconds is killed.

    :raises TargetError: a container could not be ended.
    """
    cancel = cancel_file(CancelRequest(cause=Cause.CANCEL, reason=reason))
    with explained("ending the run's containers", engine_url):
        each(partial(_end_one, client, cancel, timeout), attempt.containers)
        left = [c.name for c in attempt.containers if _state(client, c) in LIVING]
    if left:
        raise TargetError(f"containers {', '.join(left)} on {engine_url} could not be ended; look at the engine's own log")


def await_birth(client: APIClient, engine_url: str, attempt: AttemptContainers) -> bool:
    """Wait for a launch that is under way; False if whoever began it has died, or given it up."""
    deadline = time.monotonic() + LAUNCH_TIME
    leader = attempt.leader
    with explained("waiting for another submit's containers", engine_url):
        while leader is not None and (state := _state(client, leader)) == "created":
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)
    return leader is not None and state != ""


def _end_one(client: APIClient, cancel: bytes, timeout: float, container: Container) -> None:
    _quietly(client.put_archive, container.id, "/", cancel)  # first: one that is started again by now finds it
    state = _state(client, container)
    if state in ("", "exited", "dead"):
        return
    if state == "paused":
        _quietly(client.unpause, container.id)
    if state == "created":  # never started: no agent reads a request
        _quietly(client.remove_container, container.id)
        return
    _quietly(client.kill, container.id, "SIGTERM")
    if not _gone(client, container, timeout):
        _quietly(client.kill, container.id, "SIGKILL")
        _gone(client, container, KILL_TIME)


def _gone(client: APIClient, container: Container, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while _state(client, container) in LIVING:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _state(client: APIClient, container: Container) -> str:
    """Return a container's state, "" if it is gone."""
    import docker.errors

    try:
        return str(client.inspect_container(container.id)["State"]["Status"])
    except docker.errors.NotFound:
        return ""


def _quietly(action: object, *arguments: object) -> None:
    """Call ``action`` on a container; ignore one that is gone, has just stopped or has a full disk."""
    import docker.errors

    assert callable(action)
    try:
        action(*arguments)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409) and "no space left" not in str(error.explanation):
            raise


def remove_older(jobs: Jobs, attempts: Iterable[AttemptContainers], owner: AttemptId) -> None:
    """Remove what older attempts left, once the owner lives or has lived."""
    older = [a for a in attempts if a.id < owner]
    if older:
        jobs.remove(older)
        jobs.remove_networks(owner.job_id, keep=[owner])
