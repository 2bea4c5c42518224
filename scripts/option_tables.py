"""Puts the options of every target as tables between their marks in docs: ``option_tables.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from muster.targets import OPTIONS
from muster.targets.options import Kind, Option
from muster.targets.ssh.options import HOST_OPTIONS

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLES = {**OPTIONS, "host": HOST_OPTIONS}
FILES = ("connections.md", "hosts.md")


def main() -> int:
    """Write the tables into the docs."""
    for name in FILES:
        file = DOCS / name
        file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def with_tables(text: str) -> str:
    """Return a text with all tables between their marks replaced."""
    for name, options in TABLES.items():
        start, end = f"<!-- options:{name} -->\n", f"<!-- /options:{name} -->"
        if start in text:
            before, _, rest = text.partition(start)
            after = rest.partition(end)[2]
            text = f"{before}{start}{_of_hosts(options) if name == 'host' else _of_target(options)}\n{end}{after}"
    return text


def _of_target(options: Iterable[Option]) -> str:
    rows = [
        f"| `{option.name}` | {_place(option)} | {option.kind.value} | {option.help}{_example(option)} |" for option in options
    ]
    return "\n".join(["| option | in the form | takes | meaning |", "| --- | --- | --- | --- |", *rows])


def _of_hosts(options: Iterable[Option]) -> str:
    rows = [f"| `{option.name}` | {option.kind.value} | {option.help}{_example(option)} |" for option in options]
    return "\n".join(["| of a host | takes | meaning |", "| --- | --- | --- |", *rows])


def _place(option: Option) -> str:
    if not option.form:
        return "only muster.toml and JSON"
    kind = ", only in Airflow" if option.kind is Kind.CONNECTION else ", masked" if option.secret else ""
    return f"{option.label} (standard field `{option.standard}`{kind})" if option.standard else f"{option.label}{kind}"


def _example(option: Option) -> str:
    return f" Example: `{option.example}`" if option.example else ""


if __name__ == "__main__":
    raise SystemExit(main())
