"""What is said of credentials that end before a run may: nothing renews them on the nodes."""

from __future__ import annotations

from datetime import datetime, timezone

from muster.core.store_access import StoreAccess


def warning(access: StoreAccess, job_id: str, ends: datetime | None = None) -> str:
    """Give what becomes of a run with these credentials when they end, and what to do; empty for lasting ones.

    ``ends`` is when they do, None if nobody knows.
    """
    if not access.session_token:
        return ""
    when = f"end at {ends.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if ends else "end in a while, often after an hour"
    return (
        f"the store's credentials are temporary (they have a session token) and {when}; the run's nodes get no new ones. "
        "Checkpoints, logs and outputs can't be stored after that: a run that still trains then goes on, waits for the store "
        f"at its end, and ends with the cause store; a retry of the task, or `muster commit {job_id}`, stores its outputs with "
        "fresh credentials. For longer runs give keys that last, or none, so that the nodes use their own role"
    )
