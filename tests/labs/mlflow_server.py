"""A real MLflow server for tests: in its own environment, on loopback, with a password, its artifacts in the tests' store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
from muster.packaging.environment.pip_settings import PipSettings
from muster.packaging.environment.uv import find_uv
from muster.registry.mlflow_server import MlflowServer
from store_server import StoreServer, wait_until

PACKAGES = ("mlflow[auth]==3.17.2", "boto3>=1.40")
USER, PASSWORD = "tester", "a long pass word: ü"
BUILD_LIMIT = 280.0  # seconds; 650 MB are downloaded where no cache has them
START_LIMIT = 180.0
_AUTH = """\
[mlflow]
default_permission = MANAGE
database_uri = sqlite:///{database}
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True, kw_only=True)
class RunningMlflow:
    """A server that runs."""

    tracking_uri: str

    @property
    def config(self) -> dict[str, Any]:
        """The configuration with which Muster opens it as a registry."""
        return {"type": "mlflow", "tracking_uri": self.tracking_uri, "username": USER, "password": PASSWORD}

    def empty(self) -> None:
        """Delete all models and runs, so that the next test finds none."""
        server = MlflowServer.from_fields(self.config)
        models, tracking = server.model_store(), server.tracking_store()
        for model in models.search_registered_models():
            models.delete_registered_model(model.name)
        for experiment in tracking.search_experiments(max_results=1000):
            for run in tracking.search_runs([experiment.experiment_id], "", 1):
                tracking.delete_run(run.info.run_id)


@contextmanager
def running(folder: Path, store: StoreServer) -> Iterator[RunningMlflow]:
    """Run a server that keeps its databases in ``folder`` for as long as the context lasts."""
    python = installed()
    port, log = _free_port(), folder / "mlflow.log"
    server = RunningMlflow(tracking_uri=f"http://127.0.0.1:{port}")
    with children.running(_argv(python, folder, store, port), log, _environ(folder, store)) as child:
        wait_until(lambda: child.poll() is not None or _is_healthy(server), START_LIMIT, 0.2, f"MLflow is up; its log is {log}")
        assert child.poll() is None, f"MLflow ended with {child.returncode}:\n{children.tail(log)}"
        _make_the_password_cheap(folder / "users.db")
        yield server


def installed() -> Path:
    """Return the python of the environment with MLflow; made once for each user of this machine, and kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster-tests"
    named = hashlib.sha256("\n".join((sys.version, *PACKAGES)).encode()).hexdigest()[:12]
    folder, stamp = cache / f"mlflow-{named}", cache / f"mlflow-{named}" / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"mlflow-{named}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            _install(folder)
            stamp.touch()
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    settings = PipSettings.read(os.environ)
    environ = {**os.environ, **settings.variables()}
    venv = [find_uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
    install = [find_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *settings.flags(), *PACKAGES]
    for argv in (venv, install):
        subprocess.run(argv, env=environ, check=True, timeout=BUILD_LIMIT)


def _argv(python: Path, folder: Path, store: StoreServer, port: int) -> list[str]:
    return [
        *(str(python), "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", f"s3://{store.bucket}/mlflow"),
    ]


def _environ(folder: Path, store: StoreServer) -> dict[str, str]:
    config = folder / "auth.ini"
    config.write_text(_AUTH.format(database=folder / "users.db", user=USER, password=PASSWORD), encoding="utf-8")
    told = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_S3_ENDPOINT_URL": store.endpoint,
    }
    return {**os.environ, **store.environment, **told}


def _is_healthy(server: RunningMlflow) -> bool:
    try:
        urllib.request.urlopen(f"{server.tracking_uri}/health", timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def _make_the_password_cheap(users: Path) -> None:
    """Keep the password by a hash that is checked quickly: MLflow checks it with every request, a third of a second each."""
    cheap = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 1).hex()
    with sqlite3.connect(users) as database:
        changed = database.execute("UPDATE users SET password_hash = ?", (f"pbkdf2:sha256:1$salt${cheap}",))
    database.close()
    assert changed.rowcount == 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
