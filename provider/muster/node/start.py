"""Entry of everything that runs on a node: ``python -I [-S] start.py guardian|agent|sync NODE_FOLDER``."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Find the packed library beside this file and hand over to the part that was asked for."""
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    part, folder = sys.argv[1], sys.argv[2]
    if part == "guardian":
        from muster.node import guardian

        return guardian.main(folder)
    if part == "agent":
        from muster.node import agent

        return agent.main(folder, life_fd=int(sys.argv[3]))
    if part == "sync":
        from muster.store import sync

        return int(sync.main(sys.argv[2:]))
    print(f"start.py: unknown part {part!r}; it is guardian, agent or sync", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
