"""PipSettings: the package indexes of the user's pip configuration, passed to uv, which does not read it."""

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
_UV_VARIABLES_OF = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "no-index": ("UV_NO_INDEX",),
    "cert": ("SSL_CERT_FILE",),
    "trusted-host": ("UV_INSECURE_HOST",),
}
"""Options of pip that are passed on, each with uv's own variables, which take precedence."""


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """Options of pip with their values; an option that is not set is absent."""

    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> PipSettings:
        """Return the settings in pip's files and ``PIP_*`` variables, read as pip does.

        :raises RequestError: a file of pip's can't be read.
        """
        found: dict[str, tuple[str, ...]] = {}
        for path in _files(environ):
            if path.is_file():
                found.update(_read_file(path))
        for option in _UV_VARIABLES_OF:
            value = environ.get(f"PIP_{option.upper().replace('-', '_')}")
            if value:
                found[option] = tuple(value.split())
        unset = {
            option: values for option, values in found.items() if not any(environ.get(v) for v in _UV_VARIABLES_OF[option])
        }
        return cls(options={option: values for option, values in unset.items() if values})

    def flags(self) -> list[str]:
        """Return the flags for uv, without any index: every user of the machine can read them."""
        flags = [part for value in self._of("trusted-host") for part in ("--allow-insecure-host", value)]
        if self._of("no-index")[:1] and self._of("no-index")[0].lower() in ("1", "true", "yes", "on"):
            flags.append("--no-index")
        if self._of("extra-index-url"):  # pip takes the best version of all indexes, uv would take the first index
            flags += ["--index-strategy", "unsafe-best-match"]
        return flags

    def variables(self) -> dict[str, str]:
        """Return the variables for uv with the indexes, whose URLs may have passwords."""
        variables = {
            "UV_DEFAULT_INDEX": "".join(self._of("index-url")[:1]),
            "UV_INDEX": " ".join(self._of("extra-index-url")),
            "UV_FIND_LINKS": ",".join(map(_without_comma, self._of("find-links"))),
            "SSL_CERT_FILE": "".join(self._of("cert")[:1]),
        }
        return {name: value for name, value in variables.items() if value}

    def _of(self, option: str) -> tuple[str, ...]:
        return self.options.get(option, ())


def for_pip(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables for pip with what is set for uv alone, so that both use the same indexes."""
    found: dict[str, str] = {}
    for option, variables in _UV_VARIABLES_OF.items():
        values = [environ[variable] for variable in variables if environ.get(variable)]
        if values and option != "cert":  # pip reads the same variable for certificates
            found[f"PIP_{option.upper().replace('-', '_')}"] = " ".join(map(_for_pip, values[0].replace(",", " ").split()))
    return found


def _for_pip(place: str) -> str:
    """Return an index of uv as pip writes it, without the name that may precede its URL."""
    name, sign, url = place.partition("=")
    return url if sign and "://" in url and "://" not in name else place


def _files(environ: Mapping[str, str]) -> list[Path]:
    """Return pip's files; a later one takes precedence."""
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
    return {option: tuple(values[option].split()) for option in _UV_VARIABLES_OF if option in values}


def _without_comma(place: str) -> str:
    """Return an item of uv's list, in which a comma ends items; a path is absolute, as uv runs in another folder."""
    url = place if "://" in place else os.path.abspath(os.path.expanduser(place))
    if "," not in url:
        return url
    url = url if "://" in url else f"file://{quote(url, safe='/,')}"
    return url.replace(",", "%2C")
