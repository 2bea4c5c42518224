"""The store that the container tests use: both this machine and a container of its network reach it, and it comes back."""

from __future__ import annotations

from docker import DockerClient

from engine import LABELS, DockerStore
from muster.core.errors import MusterError


def test_machine_and_containers_reach_the_store(engine: DockerClient, base_image: str, docker_store: DockerStore) -> None:
    docker_store.open().check()
    code = f"import socket; socket.create_connection(({docker_store.server.address!r}, 8333), 10); print('reached')"
    argv = ["python3", "-c", code]
    said = engine.containers.run(base_image, argv, network=docker_store.network, remove=True, labels=LABELS)
    assert said == b"reached\n"


def test_the_store_keeps_address_and_data_over_a_stop(docker_store: DockerStore) -> None:
    store = docker_store.open()
    store.check()
    docker_store.server.stop()
    stopped = _fails(docker_store)
    docker_store.server.start()
    assert stopped
    store.check()


def _fails(store: DockerStore) -> bool:
    try:
        store.open().check()
    except MusterError:
        return True
    return False
