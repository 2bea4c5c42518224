"""The user's own pip settings, which uv does not read: extra places for wheels, an index, a CA bundle; all of them optional."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """What pip would use; empty where nothing is configured."""

    find_links: tuple[str, ...] = ()
    index_url: str = ""
    cert: str = ""

    def arguments(self) -> list[str]:
        """Give them as uv's arguments."""
        links = [item for link in self.find_links for item in ("--find-links", link)]
        return [*links, *(["--index-url", self.index_url] if self.index_url else [])]

    def environment(self) -> dict[str, str]:
        """Give them as variables for uv."""
        return {"SSL_CERT_FILE": self.cert} if self.cert else {}


def pip_settings(environ: Mapping[str, str]) -> PipSettings:
    """Read pip's variables and files, the variables first; uv's own variables override both where uv reads them."""
    files = _file_settings(environ)

    def setting(name: str) -> str:
        return environ.get(f"PIP_{name.upper().replace('-', '_')}") or files.get(name, "")

    links = () if "UV_FIND_LINKS" in environ else tuple(setting("find-links").split())
    index = "" if "UV_INDEX_URL" in environ or "UV_DEFAULT_INDEX" in environ else setting("index-url")
    cert = "" if "SSL_CERT_FILE" in environ else setting("cert")
    return PipSettings(find_links=links, index_url=index, cert=cert)


def _file_settings(environ: Mapping[str, str]) -> dict[str, str]:
    home = Path(environ.get("HOME", "/"))
    config = environ.get("XDG_CONFIG_HOME") or str(home / ".config")
    places = [
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{config}/pip/pip.conf",
        f"{sys.base_prefix}/pip.conf",
        f"{sys.prefix}/pip.conf",
    ]
    parser = configparser.RawConfigParser()
    parser.read([*places, *filter(None, [environ.get("PIP_CONFIG_FILE", "")])], encoding="utf-8")
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found.update(parser.items(section))
    return found


def uv_environment(settings: PipSettings) -> dict[str, str]:
    """Give the environment in which uv runs: ours, without the virtual environment that we may run in."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    return {**kept, **settings.environment()}
