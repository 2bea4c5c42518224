"""Finding: one thing that was looked at before it is relied on, and what to do if it is unfit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``what`` was looked at (``disk``, ``gpu-b: clock``), whether it is ``fine``, what was seen in one line, and its remedy.

    One that is not fine always has a remedy. One that is fine may have: what would be better, without being needed.
    """

    what: str
    fine: bool
    text: str
    remedy: str = ""

    @classmethod
    def of(cls, what: str, fine: bool, text: str, remedy: str) -> Finding:
        """Give a finding whose remedy is said only where it is unfit."""
        return cls(what=what, fine=fine, text=text, remedy="" if fine else remedy)

    @classmethod
    def refused(cls, what: str, error: Exception) -> Finding:
        """Give what an error of ours says: what failed, and behind its last semicolon what to do."""
        text, _, remedy = " ".join(str(error).split()).rpartition("; ")
        return cls(what=what, fine=False, text=text or remedy, remedy=remedy if text else "correct what is named there")

    def __str__(self) -> str:
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.what}: {'ok' if self.fine else 'UNFIT'}, {self.text}{remedy}"
