"""The error tree: every error says what failed, the value seen and what to do next.

MusterError
├── RequestError          the request is wrong; nothing was launched; never retried (exit code 2)
│   ├── EnvironmentUnsolvable   the resolver could not satisfy the packages
│   └── StoreUnusable           the store refuses the credentials, or is none; of a command that only reads: can't be reached
├── TargetError           the compute target could not do what was asked
│   ├── UnknownRun        no run of that name on this target or in this store
│   └── StaleGeneration   an older generation asked for something the newer one owns
├── StoreError            the store is away, or failed after it had been usable
└── RunFailed             the run ended, and not well; carries the verdict
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.core.state import RunState
    from muster.core.verdict import Verdict


class MusterError(Exception):
    """Root of all errors raised by Muster."""


class RequestError(MusterError):
    """The request is wrong: what was wrong, the value seen, what to do. Raised before anything is launched."""


class EnvironmentUnsolvable(RequestError):
    """The packages of the environment don't resolve or install; carries the resolver's own reason."""


class StoreUnusable(RequestError):
    """The run store can't be used as it is named: it refuses the credentials, has no such bucket, is no store."""


class TargetError(MusterError):
    """The compute target could not do what was asked."""


class UnknownRun(TargetError):
    """No run of that name is known here."""


class StaleGeneration(TargetError):
    """An older generation asked for something that a newer one owns."""


class StoreError(MusterError):
    """The run store is away, or failed after it had been usable."""


class RunFailed(MusterError):
    """The run ended, and not well."""

    def __init__(self, run: str, state: RunState, verdict: Verdict) -> None:
        super().__init__(f"{verdict.summary()} [run {run}: {state.value}]")
        self.run = run
        self.state = state
        self.verdict = verdict
