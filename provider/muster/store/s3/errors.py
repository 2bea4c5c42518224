"""Kinds of store errors, by what a caller can do about them.

StoreError
├── Away       the store can't be reached or is overloaded; the same request may succeed later
├── Refused    credentials or rights are wrong; it may succeed once they are renewed
├── Missing    no such object
├── Conflict   the condition of a write did not hold: someone else wrote first
└── Changed    a file was changed by its writer while it was stored
"""

from __future__ import annotations

from muster.core.errors import StoreError


class Away(StoreError):
    """The store can't be reached or is overloaded."""


class Refused(StoreError):
    """The store refuses the credentials or the right."""


class Missing(StoreError):
    """No such object."""


class Conflict(StoreError):
    """The condition of a write did not hold."""


class Changed(StoreError):
    """A file was changed while it was being stored."""
