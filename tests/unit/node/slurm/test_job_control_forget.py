"""Slurm job control: whose credentials are deleted, and which requests are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.paths import BatchPaths, JobPaths
from muster.node.slurm import claim_chain
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.job_control import DeleteCredentials, JobControl


def laid_out(paths: JobPaths, number: int, generation: int, attempt: int, base: int) -> BatchPaths:
    """Let an attempt own the job, with credentials for its nodes."""
    entry = ChainEntry(claim={"generation": generation, "attempt": attempt}, base=base)
    paths.job.mkdir(parents=True, exist_ok=True)
    assert claim_chain.append(paths, number, entry)
    batch = paths.batch(generation, base)
    batch.root.mkdir(parents=True, exist_ok=True)
    for file in (batch.access, batch.secrets):
        file.touch()
    return batch


def test_the_credentials_of_a_newer_attempt_stay(tmp_path: Path) -> None:
    paths = JobPaths(root=tmp_path, job_id="run")
    ended = laid_out(paths, 0, generation=1, attempt=1, base=1)
    laid_out(paths, 1, generation=1, attempt=2, base=1)  # started again by Slurm
    retry = laid_out(paths, 2, generation=1, attempt=3, base=3)
    cleared = laid_out(paths, 3, generation=2, attempt=1, base=1)
    JobControl(tmp_path).delete_credentials(DeleteCredentials(job_id="run", generation=1, attempt=2))
    assert not ended.access.exists()
    assert not ended.secrets.exists()
    assert all(file.exists() for batch in (retry, cleared) for file in (batch.access, batch.secrets))


@pytest.mark.parametrize("hostile", ["../../../x", "../victim", "..", "a/b", "", "a\0b"])
@pytest.mark.parametrize("command", ["remove_job", "delete_credentials", "read_template", "request_cancel"])
def test_a_job_id_that_leads_elsewhere_is_refused(tmp_path: Path, hostile: str, command: str) -> None:
    root = tmp_path / "a" / "b" / "root"  # so deep that every name leads to a place below tmp_path
    victim = root / "victim"
    victim.mkdir(parents=True)
    fields = {"generation": 1, "attempt": 1, "base": 1, "number": 0, "cancel": {"cause": "cancel", "reason": "none"}}
    reply = JobControl(root).commands.answer({"do": command, "job_id": hostile, **fields})
    assert "can't be the name of a file or folder" in reply["error"]
    assert list(victim.iterdir()) == []


def test_a_file_of_a_launch_goes_nowhere_else(tmp_path: Path) -> None:
    entry = {"claim": {"generation": 1, "attempt": 1}, "base": 1}
    request = {"do": "submit_job", "job_id": "run", "number": 0, "entry": entry, "argv": ["true"]}
    reply = JobControl(tmp_path / "root").commands.answer({**request, "files": {"../../x": ""}})
    assert "can't be the name of a file or folder" in reply["error"]
    assert list(tmp_path.iterdir()) == []
