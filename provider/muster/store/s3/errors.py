"""Kinds of store errors, by what a caller can do about them.

StoreError
├── StoreUnavailable      the store is unreachable or overloaded; the same request may succeed later
├── AccessDenied          credentials or permissions are wrong; the request may succeed once they are renewed
├── NotFound              no such object
├── PreconditionFailed    the condition of a write did not hold: another writer was first
└── FileChanged           a file was changed by its writer while it was stored
"""

from __future__ import annotations

from muster.core.errors import StoreError


class StoreUnavailable(StoreError):
    """The store is unreachable or overloaded."""


class AccessDenied(StoreError):
    """The store refuses the credentials or the permission."""


class NotFound(StoreError):
    """The object does not exist."""


class PreconditionFailed(StoreError):
    """The condition of a write did not hold."""


class FileChanged(StoreError):
    """A file was changed while it was being stored."""
