"""SeaweedFS on this machine: an S3-compatible server on loopback, with keys and one bucket."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import children

START_LIMIT = 120.0
LOOPBACK = "127.0.0.1"
GRPC_OFFSET = 10_000  # every port P of SeaweedFS also opens P + 10,000
SERVICES = ("s3", "master", "volume", "filer", "admin")


class ServerFailed(Exception):
    """SeaweedFS did not come up; says where its log is."""


@contextmanager
def server(folder: Path, bucket: str, access_key: str, secret_key: str, address: str = LOOPBACK) -> Iterator[str]:
    """Run a server that keeps its data in ``folder`` for as long as the context lasts; gives the endpoint URL.

    ``address`` is listened on: loopback, or one that only this machine's containers reach.
    """
    log = folder.with_name(folder.name + ".log")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(SERVICES), address)
    env = {**os.environ, "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    endpoint = f"http://{address}:{ports[0]}"
    with children.running(argv(folder / "data", bucket, ports, address), log, env) as child:
        client = _client(endpoint, access_key, secret_key)
        if not children.wait_until(lambda: child.poll() is not None or _has_bucket(client, bucket), START_LIMIT):
            raise ServerFailed(f"SeaweedFS did not answer within {START_LIMIT:.0f} s; its log is {log}")
        if child.poll() is not None:
            raise ServerFailed(f"SeaweedFS ended with {child.returncode}; its log {log} ends with:\n{children.tail(log)}")
        yield endpoint


def free_ports(count: int, address: str = LOOPBACK) -> list[int]:
    """Return ports that are free together with their gRPC twins."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        if port not in found and _is_free(address, port) and _is_free(address, port + GRPC_OFFSET):
            found.append(port)
    return found


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def argv(data: Path, bucket: str, ports: list[int], address: str = LOOPBACK) -> list[str]:
    """Return the command line; the first port is that of S3."""
    given = (f"-{service}.port={port}" for service, port in zip(SERVICES, ports, strict=True))
    return [weed(), *options(str(data), bucket, bind=address, ip=address), *given]


def options(data: str, bucket: str, bind: str, ip: str = LOOPBACK) -> list[str]:
    """Return the arguments that do not depend on ports; ``bind`` is the address listened on, over ``ip`` the parts talk."""
    return [
        *("mini", f"-dir={data}", f"-bucket={bucket}", f"-ip={ip}", f"-ip.bind={bind}"),
        *("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
    ]


def weed() -> str:
    """Return the path of SeaweedFS's one program, which lies beside our interpreter."""
    return str(Path(sys.executable).with_name("weed"))


def _client(endpoint: str, access_key: str, secret_key: str) -> Any:
    import boto3
    from botocore.config import Config

    quick = Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    keys: dict[str, Any] = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=quick, **keys)


def _has_bucket(client: Any, bucket: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError):
        return False
    return True
