"""What pip is told, told to uv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.packaging.environment import pip_settings
from muster.packaging.environment.pip_settings import PipSettings


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_settings, "SYSTEM", tmp_path / "etc")
    monkeypatch.setattr(pip_settings.sys, "prefix", str(tmp_path / "prefix"))


def read(tmp_path: Path, text: str = "", **environ: str) -> PipSettings:
    """Read with one file, the strongest, and a home of its own."""
    file = tmp_path / "chosen.conf"
    file.write_text(text)
    return PipSettings.read({"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(file), **environ})


def test_nothing_said_is_nothing_passed_on(tmp_path: Path) -> None:
    settings = PipSettings.read({"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull})
    assert (settings.flags(), settings.variables()) == ([], {})


def test_places_become_variables_as_they_may_have_passwords(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        PIP_INDEX_URL="https://me:s3cret@a/simple",
        PIP_EXTRA_INDEX_URL="https://b/simple file:///c",
        PIP_FIND_LINKS="/wheels https://d",
        PIP_CERT="/ca.pem",
        PIP_NO_INDEX="1",
        PIP_TRUSTED_HOST="a",
    )
    assert settings.flags() == [
        *("--allow-insecure-host", "a"),
        "--no-index",
        *("--index-strategy", "unsafe-best-match"),
    ]
    assert settings.variables() == {
        "UV_DEFAULT_INDEX": "https://me:s3cret@a/simple",
        "UV_INDEX": "https://b/simple file:///c",
        "UV_FIND_LINKS": "/wheels,https://d",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_files_are_read_and_variables_win(tmp_path: Path) -> None:
    text = (
        "[global]\nindex_url = https://a\nfind-links =\n  /one\n  /two\n[install]\nindex-url = https://b%20c\n[freeze]\nx=1\n"
    )
    assert read(tmp_path, text).variables() == {"UV_DEFAULT_INDEX": "https://b%20c", "UV_FIND_LINKS": "/one,/two"}
    assert read(tmp_path, text, PIP_FIND_LINKS="/three").variables()["UV_FIND_LINKS"] == "/three"


@pytest.mark.parametrize(
    "place",
    [".pip/pip.conf", ".config/pip/pip.conf", "own/pip/pip.conf", "shared/pip/pip.conf", "etc/pip.conf", "prefix/pip.conf"],
)
def test_pips_own_places_are_looked_at(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("[global]\nindex-url = https://found\n")
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "shared")}
    if place.startswith("own"):
        environ["XDG_CONFIG_HOME"] = str(tmp_path / "own")
    assert PipSettings.read(environ).options["index-url"] == ("https://found",)


def test_what_uv_is_told_itself_wins(tmp_path: Path) -> None:
    settings = read(tmp_path, PIP_FIND_LINKS="/pip", PIP_CERT="/pip", UV_FIND_LINKS="/uv", SSL_CERT_FILE="/uv")
    assert (settings.flags(), settings.variables()) == ([], {})


def test_a_relative_place_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path, PIP_FIND_LINKS="wheels").variables() == {"UV_FIND_LINKS": str(tmp_path / "wheels")}


def test_a_comma_in_a_place_is_not_the_one_between_two(tmp_path: Path) -> None:
    told = read(tmp_path, PIP_FIND_LINKS="/a,b%20c https://d/e,f").variables()
    assert told == {"UV_FIND_LINKS": "file:///a%2Cb%2520c,https://d/e%2Cf"}


def test_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"chosen\.conf' can't be read") as caught:
        read(tmp_path, "no section\n")
    assert "\n" not in str(caught.value)
