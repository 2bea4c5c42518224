"""What a host's clock, Python, disk and GPUs are judged to be, worded alike for all targets."""

from __future__ import annotations

import pytest

from muster.core.errors import RequestError
from muster.core.finding import Finding
from muster.targets import checks

SMI = "0, NVIDIA H200, 143771 MiB, 570.12, GPU-aa\n1, NVIDIA H200, 143771 MiB, 570.12, GPU-bb\n"


@pytest.mark.parametrize(
    ("there", "fine", "text", "has_remedy"),
    [
        (1000.2, True, "as this machine's", False),
        (1005.0, True, "5 s ahead of this machine's", True),
        (900.0, False, "100 s behind this machine's", True),
    ],
)
def test_a_clock(there: float, fine: bool, text: str, has_remedy: bool) -> None:
    found = checks.clock("gpu-b: clock", there, 999.9, 1000.1)
    assert (found.what, found.fine, found.text, bool(found.remedy)) == ("gpu-b: clock", fine, text, has_remedy)


def test_the_time_that_asking_took_counts_for_the_host() -> None:
    assert checks.clock("clock", 1040.0, 1000.0, 1020.0).fine


@pytest.mark.parametrize(
    ("said", "fine", "text"),
    [
        ("Python 3.11.2\n", True, "python3 is 3.11.2"),
        ("Python 3.10.0", True, "python3 is 3.10.0"),
        ("Python 3.9.2", False, "python3 is 3.9.2, too old for Muster's agent"),
        ("", False, "no python3 there"),
        ("sh: 1: python3: not found\n", False, "no python3 there: sh: 1: python3: not found"),
    ],
)
def test_a_python(said: str, fine: bool, text: str) -> None:
    found = checks.python("python", said)
    assert (found.fine, found.text) == (fine, text)
    assert bool(found.remedy) is not fine


@pytest.mark.parametrize(
    ("said", "wanted", "fine", "text"),
    [
        (SMI, 2, True, "2 x NVIDIA H200, driver 570.12"),
        (SMI, 4, False, "2 x NVIDIA H200, driver 570.12; the connection gives it 4"),
        (SMI, ["0", "GPU-bb"], True, "2 x NVIDIA H200, driver 570.12"),
        (SMI, ["0", "3"], False, "2 x NVIDIA H200, driver 570.12; the connection gives it 0, 3, but there is no 3"),
        ("", 0, True, "none"),
        ("nvidia-smi: not found", 1, False, "none: nvidia-smi: not found; the connection gives it 1"),
    ],
)
def test_gpus(said: str, wanted: int | list[str], fine: bool, text: str) -> None:
    found = checks.gpus("gpus", said, wanted)
    assert (found.fine, found.text) == (fine, text)
    assert bool(found.remedy) is not fine


def test_a_disk() -> None:
    assert checks.disk("disk", 5 << 30, "/root/.muster").text == "5120 MiB free below /root/.muster"
    assert not checks.disk("disk", 5 << 20, "/root/.muster").fine


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        ("no host 'x'; correct its name", "no host 'x'", "correct its name"),
        ("it\nbroke", "it broke", "correct what is named there"),
    ],
)
def test_an_error_becomes_a_finding_with_its_remedy(error: str, text: str, remedy: str) -> None:
    found = Finding.refused("reach", RequestError(error))
    assert (found.fine, found.text, found.remedy) == (False, text, remedy)
