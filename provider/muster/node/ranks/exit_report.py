"""What a node reports of a rank that has ended: how, and for those that failed, why."""

from __future__ import annotations

import signal
import time
from typing import Any

from muster.node.ranks import diagnosis
from muster.node.ranks.supervisor import SPAWNER, RankProcess

TRACEBACK = "Traceback (most recent call last):"


def report(process: RankProcess, node: int, kernel_kills: int) -> dict[str, Any]:
    """Say how a rank ended; only for those that failed by themselves, why.

    ``kernel_kills``: how many processes the kernel had ended for lack of memory when the ranks were started.
    """
    tail = list(process.tail)
    in_python = process.spec.rank != SPAWNER or TRACEBACK in tail
    why = diagnosis.exception_line if in_python else diagnosis.first_words
    detail = (process.why or why(tail)) if process.failed else ""
    killed = process.signal == signal.SIGKILL and diagnosis.kernel_kills() > kernel_kills
    return {
        "node": node,
        "rank": process.spec.rank,
        "local_rank": process.spec.local_rank,
        "decides": process.spec.decides,
        "pid": process.pid,
        "started": process.started,
        "ended": process.ended or time.time(),
        "exit_code": process.exit_code,
        "signal": process.signal,
        "victim": process.victim,
        "detail": detail,
        "hint": diagnosis.hint(detail),
        "out_of_memory": process.failed and (killed or diagnosis.out_of_memory(tail)),
        "port_taken": process.failed and diagnosis.port_taken(tail),
    }
