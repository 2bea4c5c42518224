"""What each process of a node loads: commands of a host, and what lies beside a job as long as it runs, load little."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOST = "muster.node.host"
LIGHT = ("asyncio", "ssl")
LIGHTEST = (*LIGHT, "dataclasses", "subprocess")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (f"{HOST}.log_relay", LIGHTEST),
        (f"{HOST}.log_stream", LIGHTEST),
        ("muster.node.agent.guardian", (*LIGHTEST, "json", "typing")),
        (f"{HOST}.node_control", LIGHT),
        (f"{HOST}.queue_control", LIGHT),
        ("muster.node.slurm.job_control", LIGHT),
        ("muster.node.slurm.task", LIGHT),
    ],
)
def test_a_process_loads_no_more_than_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys; import {module}; print(*(name for name in {unwanted} if name in sys.modules))"
    argv, env = [sys.executable, "-S", "-c", code], {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
