"""Store and target that are not given on the command line, from the environment and muster.toml.

The first wins: command line, job file, environment (``MUSTER_STORE``, ``MUSTER_TARGET``, ``AWS_*``), muster.toml.
One muster.toml is read: of the job file's folder or the nearest one above it, else ``~/.config/muster/muster.toml``; it has
``target``, a table ``[store]`` and a table ``[targets.NAME]`` for each target, as docs/connections.md shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

from muster.core.errors import RequestError
from muster.core.store_access import StoreAccess
from muster.core.store_keys import split_uri
from muster.targets import OPTIONS
from muster.targets.options import Kind

STORE = "MUSTER_STORE"
TARGET = "MUSTER_TARGET"
FILE_NAME = "muster.toml"
_KEYS_OF_ONE_PAIR = ("access_key", "secret_key", "session_token")
_ACCESS = tuple(f.name for f in dataclasses.fields(StoreAccess))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values from the environment and muster.toml. ``store`` and ``target`` are "" if neither has one."""

    store: str = ""
    access: StoreAccess = field(default_factory=StoreAccess)
    target: str = ""
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    file: Path | None = None

    def choose_store(self, *given: str | None) -> str:
        """Return the first store that is named, ``given`` before the settings.

        :raises RequestError: none is named, or it is no ``s3://bucket/prefix``.
        """
        uri = next(filter(None, given), self.store)
        if not uri:
            raise RequestError(
                f"no store is given: name one with --store s3://bucket/prefix, 'store' in the job file, {STORE}, "
                f"or uri in [store] of {FILE_NAME}"
            )
        try:
            split_uri(uri)
        except ValueError as error:
            raise RequestError(str(error)) from error
        return uri

    def choose_target(self, *given: str | Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the configuration of the first target that is named, ``given`` before the settings; else this machine.

        :raises RequestError: no target of that name.
        """
        chosen = next(filter(None, given), self.target) or "local"
        if isinstance(chosen, Mapping):
            return dict(chosen)
        if chosen in self.targets:
            return {"name": chosen, **self.targets[chosen]}
        if chosen == "local":
            return {"type": "local"}
        known = ", ".join(sorted({"local", *self.targets}))
        source = self.file or f"a {FILE_NAME}"
        raise RequestError(f"unknown target {chosen!r}: known are {known}; add a table [targets.{chosen}] to {source}")


def load_settings(folder: Path, environ: Mapping[str, str]) -> Settings:
    """Read environment and muster.toml as seen from a folder.

    :raises RequestError: muster.toml can't be read, or has an unknown setting.
    """
    file = next(_files(folder, environ), None)
    data = _parse(file) if file else {}
    store = _table(data, "store", file)
    _refuse_unknown(store, {"uri", *_ACCESS}, f"[store] of {file}")
    targets = _table(data, "targets", file)
    return Settings(
        store=environ.get(STORE) or str(store.get("uri", "")),
        access=_access(StoreAccess.from_environment(environ), store, environ),
        target=environ.get(TARGET) or str(data.get("target", "")),
        targets={name: _target(_table(targets, name, file), file) for name in targets},
        file=file,
    )


def _files(folder: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    folder = folder.absolute()
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    candidates = (*(place / FILE_NAME for place in (folder, *folder.parents)), home / "muster" / FILE_NAME)
    return (file for file in candidates if file.is_file())


def _parse(file: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} can't be read: {error}") from error
    _refuse_unknown(data, {"target", "store", "targets"}, str(file))
    return data


def _refuse_unknown(data: Mapping[str, Any], known: set[str], source: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise RequestError(f"unknown setting {unknown[0]!r} in {source}: known are {', '.join(sorted(known))}")


def _table(data: Mapping[str, Any], name: str, file: Path | None) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise RequestError(f"{name!r} in {file} must be a table, got {table!r}")
    return table


def _target(config: dict[str, Any], file: Path | None) -> dict[str, Any]:
    if file is None:
        return config
    names = [option.name for option in OPTIONS.get(config.get("type", "local"), ()) if option.kind is Kind.PATH]
    paths = {name: config[name] for name in names if isinstance(config.get(name), str) and config[name]}
    return {**config, **{name: str(file.parent / Path(path).expanduser()) for name, path in paths.items()}}


def _access(environment: StoreAccess, store: Mapping[str, Any], environ: Mapping[str, str]) -> StoreAccess:
    """Fill what the environment leaves open; keys are taken whole from one place, never half of a pair from each."""
    changes = {name: str(store[name]) for name in _ACCESS if name in store and not getattr(environment, name)}
    if environment.access_key:
        changes = {name: value for name, value in changes.items() if name not in _KEYS_OF_ONE_PAIR}
    if "region" in store and not (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")):
        changes["region"] = str(store["region"])
    return dataclasses.replace(environment, **changes)
