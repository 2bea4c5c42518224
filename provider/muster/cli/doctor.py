"""The command `muster doctor`: checks what a job relies on."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import doctor as checks
from muster.cli import FAILED, OK
from muster.core.codec import to_data
from muster.core.errors import RequestError
from muster.settings import Settings, load_settings

# makes airflow search its database for connections too, as its own commands do, and not only the environment
AIRFLOW_DATABASE = ("_AIRFLOW_PROCESS_CONTEXT", "server")


def doctor(arguments: argparse.Namespace) -> int:
    """Print the findings about a target, and about the store if one is named anywhere."""
    settings = load_settings(Path.cwd(), os.environ)
    config = target_of(arguments.target, settings)
    uri = settings.choose_store(arguments.store) if arguments.store or settings.store else ""
    page = checks.examine(config, uri, settings.access)
    for line in (
        [json.dumps(to_data(finding), ensure_ascii=False) for finding in page.findings] if arguments.json else page.lines()
    ):
        print(line)
    return OK if page.fit else FAILED


def target_of(name: str | None, settings: Settings) -> Mapping[str, Any]:
    """Return the configuration of a target of muster.toml, else of the airflow connection of that name.

    :raises RequestError: there is neither.
    """
    try:
        return settings.choose_target(name)
    except RequestError as unknown:
        found = _connection(name or "")
        if found is None:
            raise RequestError(f"{unknown}; there is no airflow connection of that name either") from None
        return {"name": name, **found}


def _connection(conn_id: str) -> Mapping[str, Any] | None:
    """Return the configuration of an airflow connection, None if there is none or no airflow."""
    if importlib.util.find_spec("airflow") is None:
        return None
    os.environ.setdefault(*AIRFLOW_DATABASE)
    with contextlib.redirect_stdout(sys.stderr):  # airflow may print there
        from muster.hooks.compute import ComputeHook, NoConnection

        try:
            return ComputeHook(conn_id).get_target_config()
        except NoConnection:
            return None
