"""What an attempt's ranks left for the attempts that only store it: moved from folder to folder, never deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from muster.core.paths import NodePaths


class OutputsGone(Exception):
    """What the ranks left is not there; says where it was looked for."""


def hand_over(earlier: Iterable[NodePaths], here: NodePaths) -> None:
    """Move what the ranks left on a node into ``here``, which has none of it; may be repeated after it was cut off.

    ``earlier``: the node's folders of the attempts before, the newest first: where an attempt came to nothing before it had
    taken over, its folder has none of it either.

    :raises Gone: no folder has it.
    """
    folders = list(earlier)
    _take([before.work for before in folders], here.work)
    _take([before.ranks for before in folders], here.ranks)


def _take(earlier: list[Path], here: Path) -> None:
    if here.exists():
        return
    left = next((folder for folder in earlier if folder.exists()), None)
    if left is None:
        raise OutputsGone(
            f"{here.name} is in none of {', '.join(str(folder.parent) for folder in earlier) or 'no earlier attempt'}"
        )
    os.rename(left, here)
