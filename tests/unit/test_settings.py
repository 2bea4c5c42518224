"""Which store, target and credentials the command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.settings import load_settings

TOML = """
target = "big"
[store]
uri = "s3://of-file/prefix"
endpoint_url = "http://127.0.0.1:1"
access_key = "file-key"
secret_key = "file-secret"
region = "eu-west-1"
[targets.big]
type = "local"
root = "scratch"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "muster.toml").write_text(TOML)
    inner = tmp_path / "a b" / "größe $x"
    inner.mkdir(parents=True)
    return inner


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), **more}


def test_the_nearest_file_above_is_read(folder: Path, tmp_path: Path) -> None:
    settings = load_settings(folder, environ(tmp_path))
    assert settings.choose_store() == "s3://of-file/prefix"
    assert settings.choose_target() == {"name": "big", "type": "local", "root": str(tmp_path / "scratch")}
    assert settings.access.endpoint_url == "http://127.0.0.1:1"
    assert (settings.access.access_key, settings.access.secret_key) == ("file-key", "file-secret")
    assert settings.access.region == "eu-west-1"


def test_the_home_folder_has_the_last_word(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".config" / "muster" / "muster.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[store]\nuri = "s3://at-home/x"\n')
    assert load_settings(tmp_path, environ(tmp_path)).choose_store() == "s3://at-home/x"


def test_the_first_that_says_it_wins(folder: Path, tmp_path: Path) -> None:
    settings = load_settings(folder, environ(tmp_path, MUSTER_STORE="s3://of-environment/x", MUSTER_TARGET="local"))
    assert settings.choose_store("s3://flag/x", "s3://job/x") == "s3://flag/x"
    assert settings.choose_store(None, "s3://job/x") == "s3://job/x"
    assert settings.choose_store(None, None) == "s3://of-environment/x"
    assert settings.choose_target("big", None)["root"] == str(tmp_path / "scratch")
    assert settings.choose_target(None, {"type": "local", "root": "/r"}) == {"type": "local", "root": "/r"}
    assert settings.choose_target(None, None) == {"type": "local"}


def test_keys_are_never_taken_half_from_each_place(folder: Path, tmp_path: Path) -> None:
    access = load_settings(
        folder, environ(tmp_path, AWS_ACCESS_KEY_ID="mine", AWS_SECRET_ACCESS_KEY="", AWS_REGION="us-west-2")
    ).access
    assert (access.access_key, access.secret_key, access.region) == ("mine", "", "us-west-2")
    assert access.endpoint_url == "http://127.0.0.1:1"


def test_without_a_file_this_machine_is_the_target(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ(tmp_path))
    assert settings.choose_target() == {"type": "local"}
    with pytest.raises(RequestError, match="no store is given"):
        settings.choose_store()


@pytest.mark.parametrize("uri", ["bucket/prefix", "s3://", "http://x/y"])
def test_a_store_that_is_none_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RequestError, match="s3://bucket/prefix"):
        load_settings(tmp_path, environ(tmp_path)).choose_store(uri)


def test_an_unknown_target_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"unknown target 'bgi': known are big, local; .*\[targets.bgi\]"):
        load_settings(folder, environ(tmp_path)).choose_target("bgi")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stroe]\n", "unknown setting 'stroe'"),
        ("[store]\nurl = 's3://x/y'\n", "unknown setting 'url' in .store."),
        ("store = 's3://x/y'\n", "must be a table"),
        ("[targets]\nbig = 'local'\n", "'big' .* must be a table"),
        ("target = \n", "can't be read"),
    ],
)
def test_a_file_with_a_slip_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "muster.toml").write_text(text)
    with pytest.raises(RequestError, match=said):
        load_settings(tmp_path, environ(tmp_path))


def test_certificates_of_an_engine_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    fields = 'type = "docker"\nurl = "tcp://rack:2376"\ntls_ca_cert = "certs/ca.pem"\ntls_client_key = "/key.pem"\n'
    (tmp_path / "muster.toml").write_text(f"[targets.rack]\n{fields}")
    config = load_settings(tmp_path, {"HOME": str(tmp_path)}).choose_target("rack")
    assert (config["tls_ca_cert"], config["tls_client_key"]) == (str(tmp_path / "certs/ca.pem"), "/key.pem")
    assert config["url"] == "tcp://rack:2376"


def test_a_root_on_other_machines_stays_as_it_is_written(tmp_path: Path) -> None:
    text = '[targets.hosts]\ntype = "ssh"\nroot = "~/jobs"\nkey_file = "keys/id"\nhosts = ["a"]\n'
    (tmp_path / "muster.toml").write_text(text)
    config = load_settings(tmp_path, {}).choose_target("hosts")
    assert config["root"] == "~/jobs"
    assert config["key_file"] == str(tmp_path / "keys" / "id")
