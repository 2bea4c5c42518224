"""The demo: Airflow trains a model on two nodes of this machine, Muster keeps and registers it, and what was kept is tried.

What happens is told on stderr; the last line of stdout is one JSON object. Everything lies below ``.muster/demo``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import demo_airflow
import seaweedfs
from muster.core.errors import MusterError
from muster.core.model_version import ModelVersion
from muster.core.store_access import StoreAccess

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = REPOSITORY / ".muster" / "demo"
BUCKET = "muster"
STORE = f"s3://{BUCKET}/demo"
DAG_ID = "train_digits"
MODEL = "digits"
GOOD_ENOUGH = 0.95
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOG_LINE = re.compile(r"\S+Z \[(?P<level>\w+) *\] (?P<text>.*?) \[(?P<logger>[\w.]+)\](?: |$)")


class DemoFailed(Exception):
    """The demo came to an end that it should not come to."""


def main() -> int:
    """Run the demo; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="run Airflow's components and keep its UI up until Ctrl-C")
    arguments = parser.parse_args()
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    try:
        with only_one():
            demo(arguments.ui)
    except KeyboardInterrupt:
        log("stopped; nothing of it is left running")
        return 130
    except (DemoFailed, demo_airflow.AirflowFailed, seaweedfs.ServerFailed, MusterError) as error:
        log(f"failed: {error}")
        return 1
    return 0


def stop(number: int, frame: object) -> NoReturn:
    """Unwind to the end of all that was started; a second Ctrl-C must not cut that short."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the demo's folder: two demos on one database would end each other's tasks."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(f"another demo is using {HOME}; end that one first") from None
        yield


def demo(with_ui: bool) -> None:
    """Do all of it, print the result, and with a UI wait for Ctrl-C."""
    keys = own_keys()
    log("starting SeaweedFS, an S3-compatible server on loopback")
    with seaweedfs.server(HOME / "seaweedfs", BUCKET, keys["access"], keys["secret"]) as endpoint, no_job_left():
        access = StoreAccess(endpoint_url=endpoint, access_key=keys["access"], secret_key=keys["secret"])
        port = free_port(8080)
        airflow = demo_airflow.make(HOME / "airflow", REPOSITORY / "dags", port, keys, settings(access))
        log("preparing Airflow's database")
        airflow.migrate()
        if not with_ui:
            log(f"Airflow runs the DAG {DAG_ID}; the first time this builds an environment with PyTorch, which takes minutes")
            print_result(access, lambda: airflow.test_dag(REPOSITORY / "dags" / f"{DAG_ID}.py", DAG_ID, show))
            return
        log("starting Airflow: API server, scheduler, triggerer, DAG processor")
        with demo_airflow.ui(airflow, keys["password"]) as api:
            log(f"Airflow's UI: {api.url}  user: {demo_airflow.USER}  password: {keys['password']}")
            print_result(access, lambda: api.run_dag(DAG_ID, log))
            log(f"Airflow's UI stays up: {api.url}  user: {demo_airflow.USER}  password: {keys['password']}  (Ctrl-C ends it)")
            wait_for_signal()


def settings(access: StoreAccess) -> dict[str, str]:
    """Return the variables by which the DAG's tasks find the store and this machine's folder for jobs."""
    login, password = access.access_key, access.secret_key
    extra = {"endpoint_url": access.endpoint_url, "region_name": access.region}
    connection = {"conn_type": "aws", "login": login, "password": password, "extra": extra}
    return {
        "AIRFLOW_CONN_MUSTER_STORE": json.dumps(connection),
        "MUSTER_STORE": STORE,
        "MUSTER_AWS_CONN_ID": "muster_store",
        "MUSTER_HOME": str(HOME / "machine"),
    }


def print_result(access: StoreAccess, train: Callable[[], object]) -> None:
    """Train, take the version that came of it from the store, try it on held-back data, and print the one line."""
    before = {version.version for version in versions(access)}
    train()
    new = [version for version in versions(access) if version.version not in before]
    if not new:
        raise DemoFailed(f"the DAG run ended well, but registered no new version of the model {MODEL!r}")
    model = new[-1]
    accuracy = evaluate(access, model)
    nodes = len(run_store(access).record(model.run)["nodes"])
    line = {"run": model.run, "model": MODEL, "version": model.version, "accuracy": accuracy, "uri": model.uri, "nodes": nodes}
    if accuracy < GOOD_ENOUGH:
        raise DemoFailed(f"accuracy {accuracy} is below {GOOD_ENOUGH}: {json.dumps(line)}")
    print(json.dumps(line), flush=True)


def evaluate(access: StoreAccess, model: ModelVersion) -> float:
    """Download a registered model and give its accuracy on held-back digits, computed in the environment that trained it."""
    store = run_store(access)
    folder = HOME / "models" / f"{MODEL}-{model.version}"
    files = store.download(model.run, model.path, folder)
    log(f"downloaded version {model.version} of {MODEL}: {', '.join(str(file.relative_to(folder)) for file in files)}")
    interpreter = store.record(model.run)["environment"]["interpreter"]
    script = REPOSITORY / "dags" / "digits" / "train.py"
    argv = [interpreter, str(script), "--evaluate", str(folder / model.path / "model.pt")]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "provider")}  # for muster.tracking, which ranks find by themselves
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise DemoFailed(f"{script.name} --evaluate failed with {done.returncode}:\n{done.stderr}")
    return round(float(json.loads(done.stdout)["accuracy"]), 4)


def versions(access: StoreAccess) -> list[ModelVersion]:
    """Return the model's versions, oldest first."""
    from muster.registry import open_registry

    registry = open_registry("store", run_store(access))
    return registry.versions(MODEL) if MODEL in registry.names() else []


def run_store(access: StoreAccess) -> Any:
    """Open the demo's store."""
    from muster.store.run_store import RunStore

    return RunStore(STORE, access)


@contextmanager
def no_job_left() -> Iterator[None]:
    """Cancel whatever still runs on the way out: jobs are detached from Airflow, so ending Airflow does not end them."""
    try:
        yield
    finally:
        from muster.targets import open_target

        target = open_target({"type": "local", "root": str(HOME / "machine")})
        for job in sorted((HOME / "machine" / "jobs").glob("*")):
            handle = target.find(job.name)
            if target.cancel(handle, handle.generation, "the demo was stopped"):
                log(f"cancelled run {job.name}")


def own_keys() -> dict[str, str]:
    """Return the demo's secrets, made once and kept in a private file."""
    path = HOME / "keys.json"
    if not path.exists():
        names = ("access", "secret", "jwt", "password")
        keys = {name: secrets.token_hex(12) for name in names}
        keys["fernet"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(keys, file)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def free_port(wish: int) -> int:
    """Return the wished port of the loopback if it is free, else one that is."""
    for port in (wish, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("no port of 127.0.0.1 is free")


def wait_for_signal() -> None:
    """Wait for Ctrl-C or TERM."""
    while True:
        signal.pause()


def log(text: str) -> None:
    """Print for the person who watches."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Pass on a line of Airflow's log, if it is Muster's, an error or a traceback; Airflow's own news stay in the log."""
    found = LOG_LINE.match(line)
    if found is None:
        print(f"  | {line}", file=sys.stderr, flush=True)
    elif "muster." in found["logger"] or found["level"] in ("error", "critical"):
        print(f"  | {found['text'].rstrip()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
