"""`muster doctor` as a shell sees it: local and Docker targets, connections of Airflow, a real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hosts_lab import HostsLab
from muster import __version__
from store_server import Store


def doctor(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own, with no settings but those given."""
    home = {"HOME": str(folder), "MUSTER_HOME": str(folder / "muster"), "AIRFLOW_HOME": str(folder / "airflow")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MUSTER_", "AIRFLOW"))}
    return subprocess.run(
        [sys.executable, "-m", "muster.cli", "doctor", *arguments],
        cwd=folder,
        env={**kept, **home, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def findings(page: str) -> Mapping[str, Mapping[str, str]]:
    """Read what ``--json`` prints, by what was looked at."""
    return {finding["what"]: finding for finding in map(json.loads, page.splitlines())}


def test_this_machine_and_a_store_are_fit(tmp_path: Path, store: Store) -> None:
    done = doctor(tmp_path, "--store", store.uri, **store.server.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("muster doctor: local, seen from ")
    assert any(line.startswith("ok     muster") and __version__ in line for line in lines)
    assert any("store: conditional put" in line for line in lines)
    assert lines[-1].startswith("fit: nothing is wrong among ")


def test_what_is_unfit_has_a_remedy_and_exit_1(tmp_path: Path, store: Store) -> None:
    environ = {**store.server.environment, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    done = doctor(tmp_path, "local", "--store", store.uri, "--json", **environ)
    assert done.returncode == 1
    found = findings(done.stdout)
    assert "secret key does not belong" in found["store"]["text"]
    assert found["store"]["remedy"] == "check the secret key"
    assert "not-the-secret" not in done.stdout + done.stderr
    assert found["disk"]["fine"]


def test_a_target_of_muster_toml_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "muster.toml").write_text('[targets.big]\ntype = "local"\nroot = "file/muster"\n')
    done = doctor(tmp_path, "big")
    assert done.returncode == 1
    assert done.stdout.startswith("muster doctor: big, ")
    assert f"{tmp_path}/file/muster can't be made: Not a directory" in done.stdout
    assert "-> make it writable, or set another root" in done.stdout


def toml(value: Any) -> str:
    """Write a value as TOML has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def test_ssh_hosts_on_one_page(tmp_path: Path, hosts_lab: HostsLab) -> None:
    """One host whose key is another than the known one, and one with fewer GPUs than the inventory says."""
    first, second, third = hosts_lab.rack.hosts[:3]
    keys = f"{first.known}{second.address} {third.known.split(' ', 1)[1]}{third.known}"
    hosts_lab.fields["known_hosts"] = keys
    hosts_lab.extra[third.name] = {"gpus": 8}
    config = {"type": "ssh", **hosts_lab.config}
    (tmp_path / "muster.toml").write_text("[targets.rack]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in config.items()))
    store = hosts_lab.store
    done = doctor(tmp_path, "rack", "--store", store.uri, "--json", **store.server.environment)
    assert done.returncode == 1, done.stderr
    found = findings(done.stdout)
    fine = {what for what, finding in found.items() if finding["fine"]}
    assert fine >= {"rack-1: login", "rack-1: clock", "rack-1: python", "rack-1: disk", "rack-1: gpus", "store: delete"}
    assert {what for what in found if what not in fine} == {"rack-2: login", "rack-3: gpus"}
    assert "host key" in found["rack-2: login"]["text"]
    assert "4 x Muster Test GPU, driver 555.55; the connection gives it" in found["rack-3: gpus"]["text"]
    assert found["rack-2: login"]["remedy"]
    assert found["rack-3: gpus"]["remedy"]


def test_a_connection_of_airflow(tmp_path: Path) -> None:
    connection = json.dumps({"conn_type": "muster", "extra": {"target": "docker", "url": f"unix://{tmp_path}/no.sock"}})
    done = doctor(tmp_path, "rack", "--json", AIRFLOW_CONN_RACK=connection)
    assert done.returncode == 1, done.stderr
    found = findings(done.stdout)
    assert not found["docker engine"]["fine"]
    assert "can't be reached: No such file or directory" in found["docker engine"]["text"]
    assert found["docker engine"]["remedy"].startswith("start it")


@pytest.mark.parametrize(
    ("name", "environ", "said"),
    [
        ("rick", {}, "unknown target 'rick': known are local"),
        ("rick", {}, "there is no airflow connection of that name either"),
        ("web", {"AIRFLOW_CONN_WEB": '{"conn_type": "http"}'}, "connection 'web' has type 'http'"),
    ],
)
def test_a_name_that_is_no_target_is_a_bad_request(tmp_path: Path, name: str, environ: dict[str, str], said: str) -> None:
    done = doctor(tmp_path, name, **environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.strip().count("\n") == 0
