"""Hostile names and values, wherever a user's text travels."""

from __future__ import annotations

from pathlib import Path

import pytest

HOSTILE = {
    "spaces": " a  b ",
    "quotes": 'it\'s "quoted" `id`',
    "newline": "first\nsecond\r\n",
    "dollar": "$HOME ${RANK} $(id) %s {0}",
    "unicode": "größe 長さ 🚂",
    "option": "--flag=-x",
    "token": '{"host_of": 0}',
    "backslash": "a\\b\\n",
    "empty": "",
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def hostile(request: pytest.FixtureRequest) -> str:
    """Return one text after the other that careless code changes on its way."""
    return str(request.param)


@pytest.fixture(params=["with space", "quo'te\"s", "line\nbreak", "größe 🚂", "$HOME", "-dash"])
def weird_tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return one folder after the other whose name careless code trips over."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder
