"""PipSettings: where the user's own pip looks for packages, told to uv, which does not read pip's configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from muster.core.errors import RequestError

SYSTEM = Path("/etc")
SECTIONS = ("global", "install")  # the later wins
_UV_SAYS = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "no-index": ("UV_NO_INDEX",),
    "cert": ("SSL_CERT_FILE",),
    "trusted-host": ("UV_INSECURE_HOST",),
}
"""Options of pip that are passed on, each with the variables by which a user has told uv itself; then pip's don't count."""


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """Options of pip with their values; an option that nobody has set is not there."""

    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> PipSettings:
        """Read pip's files and ``PIP_*`` variables, as pip does.

        :raises RequestError: a file of pip's can't be read.
        """
        found: dict[str, tuple[str, ...]] = {}
        for path in _files(environ):
            if path.is_file():
                found.update(_read_file(path))
        for option in _UV_SAYS:
            value = environ.get(f"PIP_{option.upper().replace('-', '_')}")
            if value:
                found[option] = tuple(value.split())
        unsaid = {option: values for option, values in found.items() if not any(environ.get(v) for v in _UV_SAYS[option])}
        return cls(options={option: values for option, values in unsaid.items() if values})

    def flags(self) -> list[str]:
        """Give the flags for uv; everyone on the machine can read them, so no place of packages is among them."""
        flags = [part for value in self._of("trusted-host") for part in ("--allow-insecure-host", value)]
        if self._of("no-index")[:1] and self._of("no-index")[0].lower() in ("1", "true", "yes", "on"):
            flags.append("--no-index")
        if self._of("extra-index-url"):  # pip takes the best version of all indexes, uv would take the first index
            flags += ["--index-strategy", "unsafe-best-match"]
        return flags

    def variables(self) -> dict[str, str]:
        """Give the variables for uv, in which places of packages may have passwords."""
        told = {
            "UV_DEFAULT_INDEX": "".join(self._of("index-url")[:1]),
            "UV_INDEX": " ".join(self._of("extra-index-url")),
            "UV_FIND_LINKS": ",".join(map(_without_comma, self._of("find-links"))),
            "SSL_CERT_FILE": "".join(self._of("cert")[:1]),
        }
        return {name: value for name, value in told.items() if value}

    def _of(self, option: str) -> tuple[str, ...]:
        return self.options.get(option, ())


def for_pip(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that tell pip what a user has told uv alone, so that both look in the same places."""
    found: dict[str, str] = {}
    for option, variables in _UV_SAYS.items():
        values = [environ[variable] for variable in variables if environ.get(variable)]
        if values and option != "cert":  # the one variable for certificates is everyone's
            found[f"PIP_{option.upper().replace('-', '_')}"] = " ".join(map(_for_pip, values[0].replace(",", " ").split()))
    return found


def _for_pip(place: str) -> str:
    """An index of uv's can have a name before its URL."""
    name, sign, url = place.partition("=")
    return url if sign and "://" in url and "://" not in name else place


def _files(environ: Mapping[str, str]) -> list[Path]:
    """Give pip's files, the later the stronger."""
    chosen = environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return []
    home = Path(environ.get("HOME") or "/")
    shared = [Path(folder) / "pip" for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep))]
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
    folders = [*shared, SYSTEM, home / ".pip", own, Path(sys.prefix)]
    return [*(folder / "pip.conf" for folder in folders), *([Path(chosen)] if chosen else [])]


def _read_file(path: Path) -> dict[str, tuple[str, ...]]:
    import configparser

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise RequestError(f"pip's configuration {str(path)!r} can't be read: {' '.join(str(error).split())}") from error
    sections = [section for section in SECTIONS if parser.has_section(section)]
    values = {name.replace("_", "-"): value for section in sections for name, value in parser.items(section)}
    return {option: tuple(values[option].split()) for option in _UV_SAYS if option in values}


def _without_comma(place: str) -> str:
    """Give a place as one of uv's list, in which a comma ends it; a path is absolute, as uv runs in another folder."""
    where = place if "://" in place else os.path.abspath(os.path.expanduser(place))
    if "," not in where:
        return where
    url = where if "://" in where else f"file://{quote(where, safe='/,')}"
    return url.replace(",", "%2C")
