"""What a node is, and misfits by name; nvidia-smi is a fake program on PATH, as there is no GPU to be had."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.plan import Needs, PortWish
from muster.node import preflight

SMI = """#!/bin/sh
echo "0, NVIDIA H200, 143771 MiB, 570.12"
echo "1, NVIDIA H200, 143771 MiB, 570.12"
"""


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def facts_of(tmp_path: Path, devices: tuple[str, ...] = (), **needs: int) -> preflight.Facts:
    plan = plan_of("pass", "s3://b/p", nodes=1, needs=Needs(**needs))
    return preflight.gather(node=0, address="127.9.9.1", plan=plan, work=tmp_path, interpreter="/bin/sh", devices=devices)


def test_this_machine(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert (facts.interface, facts.host) == ("lo", socket.gethostname())
    assert facts.cpus > 0
    assert facts.memory > 0
    assert facts.disk > 0
    assert facts.ports["master"] >= 6105
    assert preflight.misfit(plan_of("pass", "s3://b/p", nodes=1), [facts]) is None


@pytest.mark.usefixtures("fake_smi")
def test_gpus_and_driver_come_from_nvidia_smi(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, devices=("1",), gpus=1)
    assert facts.gpus == ("1, NVIDIA H200, 143771 MiB",)
    assert facts.driver == "570.12"


@pytest.mark.usefixtures("fake_smi")
def test_too_few_gpus_are_named(tmp_path: Path) -> None:
    plan = plan_of("pass", "s3://b/p", nodes=1, needs=Needs(gpus=4))
    verdict = preflight.misfit(plan, [facts_of(tmp_path, gpus=4)])
    assert verdict is not None
    assert "4 GPUs were asked for, it has 2" in verdict.summary()


def test_a_broken_nvidia_smi_is_the_reason(tmp_path: Path, fake_smi: Path) -> None:
    fake_smi.write_text("#!/bin/sh\necho driver/library version mismatch\nexit 18\n")
    assert "driver/library version mismatch" in facts_of(tmp_path, gpus=1).problem


def test_other_misfits(tmp_path: Path) -> None:
    plan, facts = plan_of("pass", "s3://b/p", nodes=1, needs=Needs(memory=1 << 60)), facts_of(tmp_path)
    assert "bytes of memory" in preflight.misfit(plan, [facts]).detail
    plan = plan_of("pass", "s3://b/p", nodes=1)
    assert "disk" in preflight.misfit(plan, [replace(facts, disk=10)]).detail
    assert "no free port for master" in preflight.misfit(plan, [replace(facts, ports={})]).detail
    assert "missing or not executable" in preflight.interpreter_problem("/no/such/python")


def test_clocks_and_drivers_that_differ_are_noted(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    odd = replace(facts, node=1, clock=facts.clock + 3600, driver="570")
    notes = preflight.differences([replace(facts, driver="550"), odd], facts.clock)
    assert "clock of node 1" in notes[0]
    assert "550, 570" in notes[1]


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        near = taken.getsockname()[1]
        found = preflight.find_ports("127.0.0.1", [PortWish(name="a", near=near), PortWish(name="b", near=near)])
    assert near < found["a"] < found["b"]
