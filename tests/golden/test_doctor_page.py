"""The page of `muster doctor` as a person reads it; `pages/doctor.txt` is reviewed as text."""

from __future__ import annotations

from pathlib import Path

from muster.core.errors import TargetError
from muster.core.finding import Finding
from muster.doctor import Page
from muster.targets import checks

PAGES = Path(__file__).parent / "pages"
SMI = "".join(f"{i}, NVIDIA H200, 143771 MiB, 570.12, GPU-{i}\n" for i in range(8))
CHANGED = (
    "the host key of gpu-c is not the one that is known; somebody may listen in: ask its keeper, "
    "then renew its known_hosts line"
)


def test_a_page_says_each_thing_with_its_remedy() -> None:
    findings = (
        Finding(what="muster", fine=True, text="0.4.0, agent 0123456789abcdef"),
        Finding.of("airflow", False, "3.1.0", "update it: 3.3 is the oldest that Muster works with"),
        Finding(what="gpu-a: reach", fine=True, text="22 of 10.0.0.1 as train"),
        checks.python("gpu-a: python", "Python 3.11.2"),
        checks.clock("gpu-a: clock", 1000.0, 1000.0, 1000.1),
        checks.gpus("gpu-a: gpus", SMI, 8),
        checks.clock("gpu-b: clock", 1007.0, 1000.0, 1000.1),
        checks.python("gpu-b: python", "Python 3.9.2"),
        checks.disk("gpu-b: disk", 300 << 20, "/home/train/.muster"),
        Finding.refused("gpu-c: host key", TargetError(CHANGED)),
        Finding(what="store: put", fine=True, text="s3://runs/prod"),
    )
    page = Page(target="rack", observer="ann@laptop", findings=findings)
    text = "\n".join(page.lines()) + "\n"
    assert text == (PAGES / "doctor.txt").read_text(encoding="utf-8")
    assert not page.fit


def test_a_page_on_which_nothing_is_wrong() -> None:
    page = Page(target="local", observer="ann@laptop", findings=(Finding(what="disk", fine=True, text="9 MiB free"),))
    assert list(page.lines())[-1] == "fit: nothing is wrong among 1 things"
    assert page.fit
