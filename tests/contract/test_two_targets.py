"""One job file on this machine and in containers: the same outputs, byte for byte, and the same record of its ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muster.store.run_store import RunStore

if TYPE_CHECKING:
    from engine import DockerStore

JOB = """
framework: any
source_directory: code
entry_script: fit.py
script_params: {"--text": "größe; $HOME 'a b'"}
node_count: 2
process_count_per_node: 2
pip_packages: ["numpy==2.2.6"]
"""
FIT = """
import json, os, pathlib, sys
import numpy
rank, world = int(os.environ["MUSTER_RANK"]), int(os.environ["MUSTER_WORLD_SIZE"])
numbers = numpy.random.default_rng(rank).normal(size=(200, 5))
weights = numpy.linalg.lstsq(numbers[:, :4], numbers[:, 4], rcond=None)[0].round(6)
place = pathlib.Path("outputs") / f"rank-{rank}.json"
place.write_text(json.dumps({"rank": rank, "of": world, "weights": weights.tolist(), "argv": sys.argv[1:]}))
print("fitted", rank, flush=True)
"""


@pytest.mark.timeout(600)
def test_one_job_file_gives_the_same_on_both_targets(tmp_path: Path, docker_store: DockerStore, base_image: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "fit.py").write_text(FIT, encoding="utf-8")
    (tmp_path / "JOB.yaml").write_text(JOB, encoding="utf-8")
    networks = json.dumps([docker_store.network])
    (tmp_path / "muster.toml").write_text(
        f'[targets.engine]\ntype = "docker"\nbase_image = "{base_image}"\nnetworks = {networks}\n', encoding="utf-8"
    )
    local, docker = (run(tmp_path, docker_store, target) for target in ("local", "engine"))
    assert outputs(docker_store, local) == outputs(docker_store, docker)
    assert len(outputs(docker_store, local)) == 4
    assert ranks(docker_store, local) == ranks(docker_store, docker)


def run(folder: Path, store: DockerStore, target: str) -> str:
    """Run the job to its end; gives the run's id."""
    keys = {"AWS_ACCESS_KEY_ID": store.access.access_key, "AWS_SECRET_ACCESS_KEY": store.access.secret_key}
    env = {**os.environ, **keys, "AWS_ENDPOINT_URL": store.access.endpoint_url, "MUSTER_HOME": str(folder / "home")}
    argv = [sys.executable, "-m", "muster.cli", "run", "JOB.yaml", "--json", "--target", target, "--store", store.uri]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return str(json.loads(done.stdout.splitlines()[-1])["run"])


def outputs(store: DockerStore, run_id: str) -> dict[str, str]:
    """Return path and content's digest of all that the run wrote."""
    manifest = RunStore(store.uri, store.access).manifest(run_id, 1)
    assert manifest is not None
    return {file.path: file.sha256 for file in manifest.files if file.path.startswith("outputs/")}


def ranks(store: DockerStore, run_id: str) -> list[dict[str, Any]]:
    """Return who the ranks were and how they ended."""
    record = RunStore(store.uri, store.access).record(run_id, 1)
    return [{key: rank[key] for key in ("rank", "node", "local_rank", "role", "exit_code")} for rank in record["ranks"]]
