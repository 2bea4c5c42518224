"""The demo's own Airflow: its environment, its database, one DAG run, and the components that make its UI."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children

COMPONENTS = {  # the log servers would listen on all interfaces; on one machine the UI reads the log files themselves
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "triggerer": ("--skip-serve-logs",),
    "dag-processor": (),
}
HEALTHY_LIMIT = 300.0
PARSED_LIMIT = 180.0
RUN_LIMIT = 3600.0
TASK_GRACE = 1.0  # a train task that gets TERM while Airflow still wants it goes on, as its job does
FOREIGN = ("AIRFLOW", "AWS_", "MUSTER_")  # of the caller's own Airflow and stores: not the demo's business
USER = "admin"


class AirflowFailed(Exception):
    """Airflow or the DAG run failed; says what to look at."""


@dataclass(frozen=True, kw_only=True)
class Airflow:
    """One Airflow with SQLite: its home folder and the environment of all of its processes."""

    home: Path
    env: dict[str, str]

    def log(self, name: str) -> Path:
        """Where a process of that name says what it does."""
        return self.home / "demo-logs" / f"{name}.log"

    def migrate(self) -> None:
        """Make or upgrade the database; nothing to do if this version of Airflow did it already."""
        version = self._version()
        stamp = self.home / "migrated"
        if stamp.exists() and stamp.read_text() == version:
            return
        if children.run(_airflow("db", "migrate"), self.log("migrate"), self.env):
            raise AirflowFailed(f"airflow db migrate failed; its log ends with:\n{children.tail(self.log('migrate'))}")
        stamp.write_text(version)

    def test_dag(self, dag_file: Path, dag_id: str, on_line: Callable[[str], None]) -> None:
        """Run a DAG once in one process, with all its tasks and triggers; ``on_line`` is given what they say."""
        log = self.log(time.strftime(f"{dag_id}-%Y%m%d-%H%M%S"))
        argv = [sys.executable, str(Path(__file__).with_name("run_dag.py")), str(dag_file), dag_id]
        with children.running(argv, log, self.env, grace=TASK_GRACE) as child:
            offset = 0
            while child.poll() is None:
                offset = _follow(log, offset, on_line)
                time.sleep(0.2)
            _follow(log, offset, on_line)
        if child.returncode:
            raise AirflowFailed(f"the DAG run of {dag_id} failed; its log is {log}")

    @staticmethod
    def _version() -> str:
        from importlib.metadata import version

        return version("apache-airflow")


def make(home: Path, dags: Path, port: int, keys: Mapping[str, str], own: Mapping[str, str]) -> Airflow:
    """Return an Airflow below ``home`` whose API listens on a loopback port; ``own`` are variables for its tasks."""
    url = f"http://127.0.0.1:{port}"
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
    }
    home.mkdir(parents=True, exist_ok=True)
    _write_private(home / "simple_auth_manager_passwords.json.generated", json.dumps({USER: keys["password"]}))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return Airflow(home=home, env={**inherited, "PATH": path, **settings, **own})


@contextmanager
def ui(airflow: Airflow, password: str) -> Iterator[Api]:
    """Run Airflow's components for as long as the context lasts; gives its API once all of them are healthy."""
    with children.ending() as running:
        for name, options in COMPONENTS.items():
            running.append(children.start(_airflow(name, *options), airflow.log(name), airflow.env))

        def check() -> None:
            for name, child in zip(COMPONENTS, running, strict=True):
                if child.poll() is not None:
                    raise AirflowFailed(f"airflow {name} ended; its log ends with:\n{children.tail(airflow.log(name))}")

        api = Api(airflow.env["AIRFLOW__API__BASE_URL"], password, check)
        api.wait_healthy()
        yield api


class Api:
    """Airflow's REST API as the demo's user; ``check`` raises if a component has ended."""

    def __init__(self, url: str, password: str, check: Callable[[], None]) -> None:
        self.url = url
        self._password = password
        self._check = check
        self._token = ""

    def wait_healthy(self) -> None:
        """Wait until every component has reported."""
        self._wait(self._healthy, HEALTHY_LIMIT, "Airflow's components")
        credentials = {"username": USER, "password": self._password}
        self._token = self._call("POST", "/auth/token", credentials)["access_token"]

    def run_dag(self, dag_id: str, on_line: Callable[[str], None]) -> str:
        """Start a DAG run and wait for its end; gives its id."""
        self._wait(lambda: self._found(f"/api/v2/dags/{dag_id}"), PARSED_LIMIT, f"DAG {dag_id}")
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
        run_id = self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"]
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}"
        on_line(f"the run: {self.url}/dags/{dag_id}/runs/{urllib.parse.quote(run_id)}")
        seen: dict[str, str] = {}
        self._wait(lambda: self._ended(path, seen, on_line), RUN_LIMIT, f"DAG run {run_id}")
        state = self._call("GET", path)["state"]
        if state != "success":
            raise AirflowFailed(f"DAG run {run_id} of {dag_id} ended as {state}")
        return str(run_id)

    def _ended(self, path: str, seen: dict[str, str], on_line: Callable[[str], None]) -> bool:
        for task in self._call("GET", f"{path}/taskInstances")["task_instances"]:
            name, state = task["task_id"], task["state"]
            if state and seen.get(name) != state:
                seen[name] = state
                on_line(f"task {name}: {state}")
        return self._call("GET", path)["state"] in ("success", "failed")

    def _healthy(self) -> bool:
        try:
            health = self._call("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "triggerer", "dag_processor"))

    def _found(self, path: str) -> bool:
        try:
            self._call("GET", path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True

    def _wait(self, condition: Callable[[], bool], limit: float, what: str) -> None:
        def alive_and_true() -> bool:
            self._check()
            return condition()

        if not children.wait_until(alive_and_true, limit, every=1.0):
            raise AirflowFailed(f"{what}: not ready after {limit:.0f} s")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def _airflow(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("airflow")), *arguments]


def _follow(log: Path, offset: int, on_line: Callable[[str], None]) -> int:
    with log.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", errors="replace").splitlines():
        on_line(line)
    return offset + len(whole)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
