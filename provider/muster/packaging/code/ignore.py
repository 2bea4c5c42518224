"""IgnoreRules: the paths of a source folder that stay out of its snapshot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from muster.core.errors import RequestError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

FILES = (".amlignore", ".gitignore")
"""The first of them that lies at the root is read, the other is not."""

ANYWHERE = frozenset({".git", "__pycache__"})
"""Git's own records, which change without the code; byte code, which every interpreter compiles for itself."""

AT_ROOT = frozenset({"outputs", "logs", "checkpoints"})
"""What a run writes: a new run starts without the files of an earlier one."""


@dataclass(kw_only=True)
class IgnoreRules:
    """Rules of one source folder.

    ``known`` holds earlier decisions by the same rules, so that only new paths are matched: matching, and the import
    of the library that does it, cost more than all the rest of an unchanged snapshot.
    """

    text: str = ""
    known: dict[str, bool] = field(default_factory=dict)
    decided: dict[str, bool] = field(default_factory=dict)
    _spec: GitIgnoreSpec | None = None

    @classmethod
    def read(cls, source: Path) -> IgnoreRules:
        """Return the rules in the ignore file of a source folder; no rules if it has none.

        :raises RequestError: the ignore file can't be read.
        """
        for name in FILES:
            try:
                return cls(text=(source / name).read_text(encoding="utf-8"))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError(f"ignore file {str(source / name)!r} can't be read: {error}") from error
        return cls()

    @property
    def digest(self) -> str:
        """Digest of the rules' content; "" if there are none."""
        return hashlib.sha256(self.text.encode()).hexdigest() if self.text else ""

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """Return whether a path, relative and with ``/``, stays out; paths below such a folder are never asked for."""
        name = path.rpartition("/")[2]
        if name in ANYWHERE or path in AT_ROOT:
            return True
        if not self.text:
            return False
        asked = f"{path}/" if folder else path
        decision = self.known.get(asked)
        self.decided[asked] = self._match(asked) if decision is None else decision
        return self.decided[asked]

    def _match(self, path: str) -> bool:
        if self._spec is None:
            self._spec = self._parse()
        return self._spec.match_file(path)

    def _parse(self) -> GitIgnoreSpec:
        from pathspec import GitIgnoreSpec

        try:
            return GitIgnoreSpec.from_lines(self.text.splitlines())
        except ValueError as error:
            raise RequestError(f"the ignore file has a pattern that can't be read: {error}; correct or remove it") from error
