"""What a node reports of itself; nvidia-smi is a fake program on PATH, as there is no GPU to be had."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.plan import Needs, PortRequest
from muster.node.host import node_folder
from muster.node.preflight import facts
from muster.packaging.code import snapshot

SMI = """#!/bin/sh
echo "0, NVIDIA H200, 143771 MiB, 570.12, GPU-aa11"
echo "1, NVIDIA H200, 143771 MiB, 570.12, GPU-bb22"
"""


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def facts_of(
    work: Path, devices: tuple[str, ...] = (), address: str = "127.9.9.1", interpreter: str = "/bin/sh", **needs: int
) -> facts.Facts:
    plan = plan_of("pass", "s3://b/p", nodes=1, needs=Needs(**needs))
    return facts.gather(node=0, address=address, plan=plan, work=work, interpreter=interpreter, devices=devices)


def test_this_machine(tmp_path: Path) -> None:
    seen = facts_of(tmp_path)
    assert (seen.interface, seen.host, seen.problem) == ("lo", socket.gethostname(), "")
    assert seen.cpus > 0
    assert seen.memory > 0
    assert seen.disk > 0
    assert seen.ports["master"] >= 6105


@pytest.mark.usefixtures("fake_smi")
@pytest.mark.parametrize("device", ["1", "GPU-bb22", "GPU-b"])
def test_gpus_and_driver_come_from_nvidia_smi(tmp_path: Path, device: str) -> None:
    seen = facts_of(tmp_path, devices=(device,), gpus=1)
    assert seen.gpus == ("1, NVIDIA H200, 143771 MiB",)
    assert seen.driver == "570.12"


def test_an_nvidia_smi_that_tells_no_uuid_is_read(tmp_path: Path, fake_smi: Path) -> None:
    fake_smi.write_text('#!/bin/sh\necho "0, NVIDIA H200, 143771 MiB, 570.12"\n')
    assert facts_of(tmp_path, devices=("0",), gpus=1).gpus == ("0, NVIDIA H200, 143771 MiB",)


def test_a_broken_nvidia_smi_is_the_reason(tmp_path: Path, fake_smi: Path) -> None:
    fake_smi.write_text("#!/bin/sh\necho driver/library version mismatch\nexit 18\n")
    assert "driver/library version mismatch; repair its driver" in facts_of(tmp_path, gpus=1).problem


def test_a_node_without_nvidia_smi_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no nvidia-smi on its PATH; install" in facts_of(tmp_path, gpus=1).problem


def test_an_interpreter_that_is_not_there_is_the_reason(tmp_path: Path) -> None:
    assert "'/no/such/python' is missing or not executable; " in facts_of(tmp_path, interpreter="/no/such/python").problem


def test_a_node_without_python_says_so_only_if_the_job_needs_it(tmp_path: Path) -> None:
    plan = plan_of("pass", "s3://b/p", nodes=1)
    assert "no python3 on its PATH" in facts.interpreter_problem("", str(tmp_path), plan, 0)
    assert facts.interpreter_problem("", os.path.dirname(sys.executable), plan, 0) == ""


def test_a_node_that_can_not_be_looked_at_says_why(tmp_path: Path) -> None:
    seen = facts_of(tmp_path / "gone")
    assert "No such file or directory" in seen.problem
    assert seen.host == socket.gethostname()


def test_the_code_that_lies_there_is_told_by_its_digest(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    (source / "späße").mkdir(parents=True)
    (source / "train.py").write_text("print(1)")
    (source / "späße" / "run me.sh").write_text("#!/bin/sh\n")
    (source / "späße" / "run me.sh").chmod(0o755)
    (source / "link").symlink_to("train.py")
    taken = snapshot.pack(source, tmp_path / "cache")
    for folder in ("outputs", "logs", "checkpoints"):
        (work / folder).mkdir(parents=True)
    node_folder.unpack_code(taken.archive, work)
    plan = plan_of("pass", "s3://b/p", nodes=1)
    object.__setattr__(plan, "snapshot", taken.digest)
    look = {"node": 0, "address": "127.9.9.1", "plan": plan, "work": tmp_path, "interpreter": "", "devices": (), "code": work}
    assert facts.gather(**look).snapshot == taken.digest  # type: ignore[arg-type]
    (work / "train.py").write_text("print(2)")
    assert facts.gather(**look).snapshot != taken.digest  # type: ignore[arg-type]


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        near = taken.getsockname()[1]
        found = facts.find_ports("127.0.0.1", [PortRequest(name="a", near=near), PortRequest(name="b", near=near)])
    assert near < found["a"] < found["b"]
