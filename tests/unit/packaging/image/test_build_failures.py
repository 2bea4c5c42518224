"""Why an image can't be had: a wrong wish is refused for good, trouble that passes is the target's and tried again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.exceptions
import urllib3.exceptions

from muster.core.errors import EnvironmentUnsolvable, MusterError, RequestError, TargetError
from muster.core.plan import EnvironmentRef
from muster.packaging.image import build as image_build
from muster.packaging.image import build_context, image
from muster.packaging.image.build_context import BuildContext, local_platform
from muster.packaging.image.recipe import Recipe, recipe_of


def quiet(line: str) -> None:
    """Take a line of the log."""


class Registry:
    """Images of which the engine has none, and of which it pulls none."""

    def __init__(self, why: str) -> None:
        self.why = why

    def identity(self, name: str) -> None:
        return None

    def pull(self, name: str, log: Any) -> str:
        return self.why


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("received unexpected HTTP status: 503 Service Unavailable", TargetError),
        ("error parsing HTTP 502 response body: invalid character '<' looking for beginning of value", TargetError),
        ("unexpected status from HEAD request to https://r/v2/x/manifests/1: 500 Internal Server Error", TargetError),
        ("Get https://r/v2/: net/http: request canceled (Client.Timeout exceeded while awaiting headers)", TargetError),
        ("Get https://r/v2/: dial tcp 10.0.0.1:443: i/o timeout", TargetError),
        ("toomanyrequests: You have reached your pull rate limit.", TargetError),
        ("manifest for python:5.0.2 not found: manifest unknown: manifest unknown", EnvironmentUnsolvable),
        ("pull access denied for none/such, repository does not exist or may require 'docker login'", EnvironmentUnsolvable),
        ("Get http://r:502/v2/: dial tcp 10.0.0.1:502: connect: connection refused", EnvironmentUnsolvable),
    ],
)
def test_a_pull_that_fails(why: str, kind: type[MusterError]) -> None:
    with pytest.raises(kind, match="image r/x:1 is not available: the engine does not have it, and pulling it failed"):
        image._ensure_given(Registry(why), "r/x:1", quiet)  # type: ignore[arg-type]


class Engine:
    """An engine whose build says some lines, and then what a real one would."""

    def __init__(self, *answer: dict[str, str] | Exception) -> None:
        self.answer = answer

    def build(self, **_: Any) -> Iterator[dict[str, str]]:
        for line in self.answer:
            if isinstance(line, Exception):
                raise line
            yield line


def wanted() -> Recipe:
    made = recipe_of(EnvironmentRef(steps=("true",)), "base:1", "")
    assert made is not None
    return made


STEP = {"stream": "Step 1/9 : FROM base:1\n"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (requests.exceptions.ChunkedEncodingError("Connection broken: InvalidChunkLength"), TargetError),
        (requests.exceptions.ConnectionError("Connection aborted."), TargetError),
        (requests.exceptions.ReadTimeout("Read timed out."), TargetError),
        (urllib3.exceptions.ProtocolError("Connection broken: IncompleteRead(0 bytes read)"), TargetError),
        ({"error": "The command '/bin/sh -c sleep' returned a non-zero code: 137"}, TargetError),
        ({"error": "The command '/bin/sh -c false' returned a non-zero code: 1"}, RequestError),
    ],
)
def test_a_build_that_fails(answer: dict[str, str] | Exception, kind: type[MusterError]) -> None:
    with pytest.raises(kind, match=r"can't be built: ") as caught:
        image_build.build(Engine(STEP, answer), wanted(), {}, io.BytesIO(), quiet)  # type: ignore[arg-type]
    assert ("the engine w" in str(caught.value)) is (kind is TargetError)


NOTHING = "ERROR: No matching distribution found for apple==1.0"
RETRY = "WARNING: Retrying (Retry(total=%d, connect=None)) after connection broken by '%s': /simple/apple/"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ([NOTHING], EnvironmentUnsolvable),
        ([RETRY % (1, "ReadTimeoutError(...)"), NOTHING], EnvironmentUnsolvable),
        ([RETRY % (0, "NewConnectionError(...)"), NOTHING], EnvironmentUnsolvable),
        ([RETRY % (0, "ReadTimeoutError(...)"), NOTHING], TargetError),
        (["ERROR: HTTP error 503 while getting https://index/apple-1.0.whl"], TargetError),
        (["Max retries exceeded (Caused by ResponseError('too many 503 error responses'))"], TargetError),
    ],
)
def test_a_download_that_fails(
    said: list[str], kind: type[MusterError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_context, "_pip", lambda *_: said)
    context = BuildContext(folder=tmp_path, cache=tmp_path, platform=local_platform(), log=quiet)
    with pytest.raises(kind, match=rf"apple can't be downloaded for Python {local_platform().python}: "):
        context._download(tmp_path, ("apple",))
