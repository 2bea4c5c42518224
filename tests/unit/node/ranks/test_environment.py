"""What a rank's environment gives it: ``muster`` to import, wherever the agent lies."""

from __future__ import annotations

from pathlib import Path

import muster
from muster.node.ranks.environment import library_path


def test_ranks_import_muster_from_where_the_agent_runs() -> None:
    assert Path(library_path(), "muster", "tracking.py").is_file()
    assert Path(library_path(), "muster") == Path(muster.__file__).parent
