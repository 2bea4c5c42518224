"""A real S3-compatible server for tests: SeaweedFS on loopback, with keys, that can be stopped and started again."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import children
import seaweedfs
from muster.core.store_access import StoreAccess
from muster.store.run_store import RunStore


def wait_until(condition: Callable[[], object], limit: float = 120.0, every: float = 0.02, what: str = "") -> None:
    """Return once a condition is true.

    :raises AssertionError: it was not within ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what or condition}"
        time.sleep(every)


@dataclass
class StoreServer:
    """``weed mini`` in a process group of its own; data, keys and ports stay the same over ``stop()`` and ``start()``."""

    folder: Path
    bucket: str = "muster-tests"
    access_key: str = "test-access-key"
    secret_key: str = field(default="test-secret-key", repr=False)
    ports: list[int] = field(default_factory=lambda: seaweedfs.free_ports(len(seaweedfs.SERVICES)))
    _child: subprocess.Popen[bytes] | None = None
    _prefixes: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def access(self) -> StoreAccess:
        return StoreAccess(endpoint_url=self.endpoint, access_key=self.access_key, secret_key=self.secret_key)

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables that give access to this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def fresh_uri(self) -> str:
        """Return a store of its own, empty."""
        return f"s3://{self.bucket}/test-{os.getpid()}-{next(self._prefixes)}"

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it takes objects."""
        if self._child is not None:
            return
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        argv = seaweedfs.argv(self.folder / "data", self.bucket, self.ports)
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        self._child = children.start(argv, self.log, {**os.environ, **keys})
        wait_until(self._is_ready, seaweedfs.START_LIMIT, 0.1, f"SeaweedFS is up; its log is {self.log}")

    def stop(self) -> None:
        """End the server with its whole group; its data stays."""
        if self._child is not None:
            child, self._child = self._child, None
            children.end([child])

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "weed.log"

    def _is_ready(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, f"SeaweedFS ended with {self._child.returncode}; its log is {self.log}"
        return self.is_usable()

    def is_usable(self) -> bool:
        """Return whether the server takes objects."""
        return _answers(self.endpoint) and _is_usable(RunStore(f"s3://{self.bucket}/ready", self.access))


@dataclass(frozen=True)
class Store:
    """A fresh store for one test."""

    uri: str
    access: StoreAccess
    server: StoreServer

    def open(self) -> RunStore:
        return RunStore(self.uri, self.access)


def pieces_of(store: RunStore, job_id: str, path: str) -> Iterator[bytes]:
    """Return the content of a run's file piece by piece, unverified."""
    [file] = [file for file in store.files(job_id) if file.path == path]
    return store.bucket.chunks(file.key)


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _is_usable(store: RunStore) -> bool:
    from muster.core.errors import MusterError

    try:
        store.check()
    except MusterError:
        return False
    return True
