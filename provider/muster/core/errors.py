"""The error tree: every error says what failed, the value seen and what to do next.

MusterError
├── RequestError          the request is wrong; nothing was launched; never retried (exit code 2)
│   ├── EnvironmentUnsolvable   the resolver could not satisfy the packages
│   └── StoreUnusable           the store refuses the credentials or does not exist; for a command that only reads: unreachable
├── TargetError           the compute target could not do what was asked
│   ├── UnknownRun        no run of that name on this target or in this store
│   └── StaleGeneration   an older generation requested something that a newer one owns
└── StoreError            the store is unreachable, or failed after it had been usable
"""

from __future__ import annotations


class MusterError(Exception):
    """Root of all errors raised by Muster."""


class RequestError(MusterError):
    """The request is wrong. Raised before anything is launched."""


class EnvironmentUnsolvable(RequestError):
    """The packages of the environment don't resolve or install; the message has the resolver's reason."""


class StoreUnusable(RequestError):
    """The run store can't be used: it refuses the credentials, has no such bucket, or is not an S3 store."""


class TargetError(MusterError):
    """The compute target could not do what was asked."""


class UnknownRun(TargetError):
    """No run of that name exists on this target or in this store."""


class StaleGeneration(TargetError):
    """An older generation requested something that a newer generation owns."""


class StoreError(MusterError):
    """The run store is unreachable, or failed after it had been usable."""
