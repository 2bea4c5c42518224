"""Words of ``docker run`` as container configuration, and where those belong that are not taken."""

from __future__ import annotations

import pytest

from muster.core.errors import RequestError
from muster.targets.docker import run_arguments as docker_arguments


def test_words_become_fields() -> None:
    words = ["-u", "7:8", "--ulimit", "core=0", "--cap-add=SYS_PTRACE", "--privileged", "--device=/dev/infiniband:/dev/ib:r"]
    assert docker_arguments.parse([*words, "--sysctl", "net.core.somaxconn=99", "--tmpfs=/fast"]) == {
        "User": "7:8",
        "HostConfig": {
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "CapAdd": ["SYS_PTRACE"],
            "Privileged": True,
            "Devices": [{"PathOnHost": "/dev/infiniband", "PathInContainer": "/dev/ib", "CgroupPermissions": "r"}],
            "Sysctls": {"net.core.somaxconn": "99"},
            "Tmpfs": {"/fast": ""},
        },
    }


def test_no_words_are_no_fields() -> None:
    assert docker_arguments.parse([]) == {"User": "", "HostConfig": {}}


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("-e", "environment_variables"),
        ("--env=A=b", "secrets"),
        ("--volume=/a:/b", "mounts"),
        ("--gpus=all", "resources_per_node.gpus"),
        ("--shm-size=1g", "shm_size"),
        ("-m", "resources_per_node.memory"),
        ("--network=host", "the target's networks"),
        ("--restart=always", "Muster decides"),
        ("--nope", "taken are --add-host"),
        ("stray", "taken are --add-host"),
        ("--cap-ad=X", "taken are --add-host"),
    ],
)
def test_other_words_are_refused_with_what_to_do(word: str, remedy: str) -> None:
    with pytest.raises(RequestError, match=r"^docker_arguments: ") as caught:
        docker_arguments.parse([word])
    assert remedy in str(caught.value)
