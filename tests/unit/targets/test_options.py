"""Options are declared once: what their kinds read, and the docs and the form that are made of them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import option_tables
from muster.core.errors import RequestError
from muster.targets import OPTIONS
from muster.targets.options import Kind, Option


def option(kind: Kind, example: str = "") -> Option:
    return Option(name="x", label="X", help="X. Empty: none.", kind=kind, example=example)


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (Kind.TEXT, " a ", "a"),
        (Kind.TEXT, 7, "7"),
        (Kind.SECRET, " a\n", " a\n"),
        (Kind.INTEGER, "8", 8),
        (Kind.NUMBER, "0.5", 0.5),
        (Kind.SWITCH, "Yes", True),
        (Kind.SWITCH, False, False),
        (Kind.LIST, "a, b,", ("a", "b")),
        (Kind.LIST, 3, ("3",)),
        (Kind.WORDS, "a 'b c'", ("a", "b c")),
        (Kind.WORDS, ["a b"], ("a b",)),
        (Kind.DEVICES, "2", ("0", "1")),
        (Kind.DEVICES, "0,2", ("0", "2")),
        (Kind.DEVICES, [1], ("1",)),
        (Kind.REGISTRY, '{"server": "r"}', {"server": "r"}),
        (Kind.NUMBER, "", None),
        (Kind.LIST, [], None),
    ],
)
def test_values_are_read_as_their_kind_has_them(kind: Kind, value: Any, parsed: Any) -> None:
    assert option(kind).parse(value) == parsed


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INTEGER, "-1"),
        (Kind.INTEGER, 1.5),
        (Kind.NUMBER, 0),
        (Kind.NUMBER, True),
        (Kind.NUMBER, "nan"),
        (Kind.SWITCH, "perhaps"),
        (Kind.LIST, {"a": 1}),
        (Kind.WORDS, "a 'b"),
        (Kind.DEVICES, "many"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_value_and_an_example(kind: Kind, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        option(kind, example="this").parse(value, "host 'a':")
    assert str(caught.value).startswith(f"host 'a': x must be {kind.value}, got {value!r}")
    assert str(caught.value).endswith("; such as this")


def test_a_secret_is_not_shown_when_it_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        option(Kind.REGISTRY).parse("s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("target", OPTIONS)
def test_every_option_has_what_a_form_shows(target: str) -> None:
    names = [declared.name for declared in OPTIONS[target]]
    assert len(names) == len(set(names))
    for declared in OPTIONS[target]:
        assert declared.label
        assert ". Empty: " in declared.help or declared.help.endswith("Empty: false."), declared.name
        assert declared.help.endswith("."), declared.name
        assert declared.group or not declared.form, declared.name


@pytest.mark.parametrize("name", option_tables.FILES)
def test_the_tables_of_the_docs_are_the_declared_options(name: str) -> None:
    text = (option_tables.DOCS / name).read_text(encoding="utf-8")
    assert "<!-- options:" in text
    assert option_tables.with_tables(text) == text, "run scripts/option_tables.py"


def test_airflow_learns_of_the_provider_without_anything_heavy() -> None:
    code = (
        "import sys\nfrom muster.provider_info import get_provider_info\nget_provider_info()\n"
        "ours = {name: module for name, module in sys.modules.items() if name.startswith('muster')}\n"
        "print(*(name for name, module in ours.items() if not hasattr(module, '__path__')))\n"
        "print(*{'airflow', 'asyncio', 'asyncssh', 'boto3', 'docker', 'ssl', 'subprocess'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    ours, heavy = done.stdout.split("\n")[:2]
    assert {name for name in ours.split() if not name.endswith("options")} == {"muster.core.errors", "muster.provider_info"}
    assert not heavy
