"""The ranks' outputs are moved to the attempt that commits them, from wherever an interrupted attempt had them."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.paths import NodePaths
from muster.node.host.node_folder import OutputsGone, hand_over_outputs


def folders(root: Path, count: int) -> list[NodePaths]:
    """Return the node's folders of so many attempts, the newest first; the oldest has the outputs of its ranks."""
    made = [NodePaths(root=root / f"a{number}" / "node 0") for number in range(count, 0, -1)]
    for folder in made:
        folder.root.mkdir(parents=True)
    made[-1].outputs.mkdir(parents=True)
    made[-1].ranks.mkdir()
    (made[-1].outputs / "model.pt").write_text("weights")
    return made


def test_it_is_moved_past_attempts_that_came_to_nothing(tmp_path: Path) -> None:
    here, *earlier = folders(tmp_path, 4)
    hand_over_outputs(earlier, here)
    assert (here.outputs / "model.pt").read_text() == "weights"
    assert here.ranks.is_dir()
    assert not earlier[-1].work.exists()


def test_it_may_be_repeated_after_it_was_cut_off_between_two_folders(tmp_path: Path) -> None:
    here, cut_off, first = folders(tmp_path, 3)
    first.work.rename(cut_off.work)
    hand_over_outputs([cut_off, first], here)
    hand_over_outputs([cut_off, first], here)
    assert (here.outputs / "model.pt").read_text() == "weights"
    assert here.ranks.is_dir()


def test_nothing_is_never_taken_for_it(tmp_path: Path) -> None:
    here, first = folders(tmp_path, 2)
    first.work.rename(tmp_path / "elsewhere")
    with pytest.raises(OutputsGone, match=r"work is in none of .*a1/node 0"):
        hand_over_outputs([first], here)
    assert not here.work.exists()
    with pytest.raises(OutputsGone, match="no earlier attempt"):
        hand_over_outputs([], here)
