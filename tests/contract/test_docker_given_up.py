"""A run that was given up leaves no container and no network on the engine, and takes nothing from the one that follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from docker_lab import DockerLab
from lab import new_job_id, plan_of

WAITS = "import time; print('ready', flush=True); time.sleep(600)"


def test_muster_cancel_leaves_nothing_on_the_engine(docker_lab: DockerLab, tmp_path: Path) -> None:
    handle = docker_lab.submit(plan_of(WAITS, docker_lab.store.uri))
    docker_lab.wait_for_line(handle)
    fields = {"type": "docker", "base_image": docker_lab.base_image, "networks": docker_lab.store.network}
    (tmp_path / "muster.toml").write_text("[targets.engine]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()))
    argv = [sys.executable, "-m", "muster.cli", "cancel", handle.job_id, "--target", "engine"]
    done = subprocess.run(argv, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout == f"{handle.job_id} was cancelled\n", done.stderr
    assert docker_lab.left(handle.job_id) == []


def test_letting_go_of_a_generation_keeps_the_network_of_a_newer_launch(docker_lab: DockerLab) -> None:
    handle = docker_lab.submit(plan_of(WAITS, docker_lab.store.uri, nodes=1), new_job_id())
    docker_lab.wait_for_line(handle)
    assert docker_lab.target.cancel(handle, 1)
    labels = {"muster.job": handle.job_id, "muster.generation": "2", "muster.attempt": "1"}
    network = docker_lab.engine.networks.create(f"muster-{handle.job_id}-g2", labels=labels)  # as a launch makes it first
    docker_lab.target.release(handle)
    assert docker_lab.left(handle.job_id) == [network.name]
