"""Credentials that end before a run may, and settings of a connection that can't be kept, are said when the job is launched."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from air import Air
from airflow.sdk import DAG

from muster.core.store_access import StoreAccess
from muster.hooks.store import RunStoreHook
from muster.links.outputs import outputs_url
from muster.operators.train import TrainOperator
from muster.store import credentials

LENT = StoreAccess(access_key="key", secret_key="secret", session_token="token")


def test_lasting_credentials_are_nothing_to_warn_of() -> None:
    assert credentials.expiry_warning(StoreAccess(access_key="key", secret_key="secret"), "run-1") == ""


def test_temporary_ones_are_named_with_their_end_what_follows_and_what_to_do() -> None:
    ends = datetime(2030, 1, 2, 5, 4, tzinfo=timezone(timedelta(hours=2)))
    said = credentials.expiry_warning(LENT, "run-1", ends)
    assert "end at 2030-01-02 03:04 UTC" in said
    assert "`muster commit run-1`" in said
    assert "their own role" in said
    assert "LENT" not in said
    assert "end in a while" in credentials.expiry_warning(LENT, "run-1")


def test_the_end_of_a_profiles_credentials_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
    lent = {
        "Version": 1,
        "AccessKeyId": "key",
        "SecretAccessKey": "secret",
        "SessionToken": "token",
        "Expiration": ends.isoformat(),
    }
    (tmp_path / "lent.json").write_text(json.dumps(lent))
    print_it = shlex.join([sys.executable, "-c", f"print(open({str(tmp_path / 'lent.json')!r}).read())"])
    (tmp_path / "config").write_text(f"[profile lent]\ncredential_process = {print_it}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AIRFLOW_CONN_LENT", json.dumps({"conn_type": "aws", "extra": {"profile_name": "lent"}}))
    access, until = RunStoreHook("lent").get_expiring_access()
    assert (access.access_key, access.secret_key, access.session_token) == ("key", "secret", "token")
    assert until == ends


def test_a_launch_with_temporary_credentials_is_warned_of(air: Air, monkeypatch: pytest.MonkeyPatch) -> None:
    # the tests' store lends none, so its lasting ones are spoken of as if they were
    monkeypatch.setattr(
        credentials, "expiry_warning", lambda access, job_id, ends: f"{access.access_key} of {job_id} ends {ends}"
    )
    with DAG("lent_credentials", schedule=None) as dag:
        TrainOperator(task_id="train", entry_script=air.script("print('x')\n"), **air.parameters)
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    assert f"{air.store.access.access_key} of {air.returned(dag_run)['run']} ends None" in air.log


def test_a_connection_that_asks_for_no_verification_is_told_that_it_is_verified(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    aws = {"conn_type": "aws", "login": "key", "password": "secret", "extra": {"verify": False}}
    monkeypatch.setenv("AIRFLOW_CONN_UNVERIFIED", json.dumps(aws))
    assert RunStoreHook("unverified").get_access().verify == ""
    said = capfd.readouterr()
    assert "'unverified' says verify = false" in said.out + said.err


@pytest.mark.parametrize(
    "template", ["https://browse/{runs}", "https://browse/{", "https://browse/{0}", "https://browse/{run.x}"]
)
def test_a_wrong_template_is_named_and_the_link_is_the_stores_own(
    template: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__MUSTER__OUTPUTS_URL_TEMPLATE", template)
    url = outputs_url(store="s3://bucket/a", run="r-1", generation=2, endpoint="http://s3:9000")
    assert url == "http://s3:9000/bucket/a/runs/r-1/g2/outputs/"
    assert template in caplog.text
    assert "{endpoint}, {bucket}, {prefix}, {run}, {generation}" in caplog.text
