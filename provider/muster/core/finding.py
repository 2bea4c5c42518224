"""Finding: the result of one check of a target or store, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``what`` was checked (``disk``, ``gpu-b: clock``), whether it is ``fine``, the value seen in one line, and the remedy.

    A finding that is not fine always has a remedy. A fine one may have a suggestion.
    """

    what: str
    fine: bool
    text: str
    remedy: str = ""

    @classmethod
    def of(cls, what: str, fine: bool, text: str, remedy: str) -> Finding:
        """Return a finding that has its remedy only if it is unfit."""
        return cls(what=what, fine=fine, text=text, remedy="" if fine else remedy)

    @classmethod
    def refused(cls, what: str, error: Exception) -> Finding:
        """Return the finding of a Muster error; the remedy is the text after its last semicolon."""
        text, _, remedy = " ".join(str(error).split()).rpartition("; ")
        return cls(what=what, fine=False, text=text or remedy, remedy=remedy if text else "correct what is named there")

    def __str__(self) -> str:
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.what}: {'ok' if self.fine else 'UNFIT'}, {self.text}{remedy}"
