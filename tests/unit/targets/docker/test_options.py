"""A Docker target of its plain fields, as connections, muster.toml and dictionaries write them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from muster import targets
from muster.core.errors import RequestError
from muster.targets.docker.target import DockerTarget


def opened(**fields: object) -> DockerTarget:
    target = targets.open_target({"type": "docker", **fields})
    assert isinstance(target, DockerTarget)
    return target


def test_lists_may_be_written_as_text_and_a_login_as_json() -> None:
    target = opened(networks="a, b", gpus=["2", 3], registry_login='{"server": "r", "username": "u", "password": "p"}')
    assert (target.networks, target.gpus) == (("a", "b"), ("2", "3"))
    assert target.images.login == {"server": "r", "username": "u", "password": "p"}
    assert "'p'" not in repr(target)


def test_the_engine_is_the_one_that_was_named_else_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert opened().engine.url == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://there:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert (opened().engine.url, opened().engine.ca_cert) == ("tcp://there:2376", "/certs/ca.pem")
    assert opened(url="tcp://named:2375").engine.ca_cert == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"registry_login": "no json, s3cret"}, "registry_login must be a mapping"),
        ({"registry_login": {"token": "s3cret"}}, "registry_login must be a mapping"),
        ({"tls_verify": "perhaps"}, "tls_verify must be true or false"),
        ({"networks": {"a": 1}}, "networks must be a list"),
        ({"nope": 1}, "has no option 'nope'"),
    ],
)
def test_bad_fields_are_refused_and_secrets_not_shown(fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        opened(**fields)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_tls_file_that_is_not_there_is_named() -> None:
    with pytest.raises(RequestError, match=r"TLS file '/no/ca\.pem' is not on this machine"):
        opened(url="tcp://x:2376", tls_ca_cert="/no/ca.pem").engine.client  # noqa: B018


def imported_for(url: str) -> bool:
    """Whether the SDK brings paramiko in a process of the command line's, where no engine answers."""
    code = (
        "import sys\nfrom muster import targets\nfrom muster.core.errors import TargetError\n"
        f"target = targets.open_target({{'type': 'docker', 'url': {url!r}}}, alone=True)\n"
        "try:\n target.engine.client\nexcept TargetError:\n print('paramiko' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip() == "True"


def test_the_command_line_imports_paramiko_only_for_engines_that_are_reached_by_ssh() -> None:
    assert not imported_for("unix:///nowhere/docker.sock")
    assert imported_for("ssh://nobody@127.0.0.1:1")
