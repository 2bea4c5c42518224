"""Packages as the nodes compare them."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.node.preflight import content_digests


def environment(folder: Path, *packages: str) -> str:
    """Lay out what a venv of these packages looks like; gives its interpreter."""
    for package in packages:
        (folder / "lib" / "python3.11" / "site-packages" / f"{package}.dist-info").mkdir(parents=True)
    return str(folder / "bin" / "python")


def test_an_environment_is_known_by_names_and_versions(tmp_path: Path) -> None:
    first, second = environment(tmp_path / "a", "torch-2.4.1", "six-1"), environment(tmp_path / "b", "six-1", "torch-2.4.1")
    assert content_digests.packages(first) == content_digests.packages(second) == ("python3.11/six-1", "python3.11/torch-2.4.1")
    assert content_digests.digest_of(content_digests.packages(first)).startswith("sha256:")


def test_what_goes_by_the_host_is_left_out(tmp_path: Path) -> None:
    assert content_digests.packages(environment(tmp_path, "pip-24.0", "setuptools-70", "torch-2.4.1")) == (
        "python3.11/torch-2.4.1",
    )
    assert content_digests.packages("/usr/bin/python3") == ()


def test_another_python_is_said_first() -> None:
    assert content_digests.difference(["python3.10/six-1"], ["python3.11/six-1"]) == "python3.10 instead of python3.11"


def test_where_nothing_is_to_be_seen_there_is_no_digest(tmp_path: Path) -> None:
    assert content_digests.packages("") == ()
    assert content_digests.digest_of(content_digests.packages(str(tmp_path / "bin" / "python"))) == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (["torch-2.3.0", "six-1"], ["torch-2.4.1", "six-1"], "torch-2.3.0 instead of torch-2.4.1"),
        (["six-1", "tqdm-4"], ["six-1"], "tqdm-4, which they have not"),
        (["six-1"], ["six-1", "tqdm-4"], "no tqdm-4"),
        (
            ["six-1", *(f"p{i}-1" for i in range(9))],
            ["six-1"],
            "p0-1, which they have not, p1-1, which they have not, p2-1, which they have not and 6 more",
        ),
        (["a-1"], ["a-1"], ""),
    ],
)
def test_a_difference_reads_as_words(ours: list[str], theirs: list[str], said: str) -> None:
    assert (
        content_digests.difference([f"python3.11/{name}" for name in ours], [f"python3.11/{name}" for name in theirs]) == said
    )
