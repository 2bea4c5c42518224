"""Builds one image on an engine: logs line by line, explains a failure in one line, and removes all but the image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from muster.core.errors import EnvironmentUnsolvable, MusterError, RequestError, TargetError
from muster.packaging.environment.uv import LONGEST_REASON, Log
from muster.packaging.image.recipe import BuildStep, Recipe

if TYPE_CHECKING:
    from docker import APIClient

STAGE = "MUSTER_STAGE"  # build argument that becomes the label by which stages are found
LAST_LINES = 8
KILLED = 137  # exit code of what SIGKILL has ended
_AT = re.compile(r"^Step (\d+)/\d+ : ")
_CODE = re.compile(r"returned a non-zero code: (\d+)")
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_DRAWING = re.compile(r"^[\s│╰─>\u00d7]+")
_EMPTY = re.compile(r"^$|note: |hint: |\[end of output\]|\[\d+ lines of output\]|error: subprocess-exited|exit code: \d+$")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(kw_only=True)
class BuildProgress:
    """The current step of a build, and that step's output."""

    recipe: Recipe
    log: Log
    step: BuildStep = field(default_factory=lambda: BuildStep(text=""))
    output: list[str] = field(default_factory=list)

    def feed(self, text: str) -> None:
        """Process output of the builder."""
        for line in _COLOURS.sub("", text).splitlines():
            at = _AT.match(line)
            if at:
                self.step = self._step(int(at[1]), line[at.end() :])
                self.output = []
                self.log(f"step {line.split(' : ')[0].removeprefix('Step ')}: {self.step.purpose or self.step.text}")
            elif line.strip() and not line.startswith((" --->", "Removing intermediate")):
                self.output.append(line.rstrip())
                self.log(line.rstrip())

    def _step(self, number: int, text: str) -> BuildStep:
        """Return the instruction of a number; the builder adds its own after the last, for labels."""
        steps = self.recipe.steps
        return steps[number - 1] if number <= len(steps) else BuildStep(text=text)

    def error(self, words: str) -> MusterError:
        """Return the error of a build that the engine ended with these words."""
        last = self._last()
        if _NO_SPACE.search(words) or any(_NO_SPACE.search(line) for line in self.output[-40:]):
            return TargetError(
                f"{self.recipe.what} can't be built: no space left on the engine's disk, while {self._doing()}; free some, for "
                "example by `docker system prune`"
            )
        code = _CODE.search(words)
        if code and int(code[1]) == KILLED:
            return TargetError(
                f"{self.recipe.what} can't be built: {self._doing()} was killed from outside (exit code {KILLED}): {last}; its "
                "machine ran out of memory, or the engine was stopped; try again"
            )
        why = f"exit code {code[1]}: {last}" if code else _one_line(words)
        kind = RequestError if self.step.purpose.startswith("build_steps") else EnvironmentUnsolvable
        return kind(f"{self.recipe.what} can't be built: {self._doing()} failed with {why}")

    def cut_off(self, error: object) -> TargetError:
        """Return the error of a build whose engine became unreachable."""
        return TargetError(
            f"{self.recipe.what} can't be built: the engine was lost while {self._doing()}: {_one_line(str(error))}; "
            "try again once it answers"
        )

    def _doing(self) -> str:
        return self.step.purpose or self.step.text or "sending the packages"

    def _last(self) -> str:
        """Return the last output of the step; of package installers only their errors."""
        lines = [line for line in (_DRAWING.sub("", line).strip() for line in self.output) if not _EMPTY.match(line)]
        errors = [line for line in lines if line.startswith("E: ")]
        text = " | ".join((errors or lines)[-LAST_LINES:]) or "it had no output"
        return text if len(text) <= LONGEST_REASON else f"…{text[-LONGEST_REASON:]}"


def build(client: APIClient, recipe: Recipe, arguments: Mapping[str, str], context: IO[bytes], log: Log) -> None:
    """Build an image and name it.

    :raises EnvironmentUnsolvable: an instruction fails; with its own last lines.
    :raises RequestError: one of the user's steps fails.
    :raises TargetError: the engine's disk is full, the engine is gone, or an instruction is killed from outside.
    """
    import docker.errors

    progress = BuildProgress(recipe=recipe, log=log)
    answer = _stream(client, recipe, arguments, context)
    try:
        for line in answer:
            if "error" in line:
                raise progress.error(str(line["error"]))
            progress.feed(str(line.get("stream", "")))
    except docker.errors.APIError as error:
        raise progress.error(str(error.explanation or error)) from error
    except _cut_off() as error:
        raise progress.cut_off(error) from error
    _remove_stages(client, recipe)


def engine_error(words: str, what: str) -> MusterError:
    """Return the error for a refusal of the engine outside a build."""
    if _NO_SPACE.search(words):
        return TargetError(f"{what}: no space left on the engine's disk; free some, for example by `docker system prune`")
    return EnvironmentUnsolvable(f"{what}: {_one_line(words)}")


def _stream(client: APIClient, recipe: Recipe, arguments: Mapping[str, str], context: IO[bytes]) -> Iterator[dict[str, Any]]:
    stream: Iterator[dict[str, Any]] = client.build(
        fileobj=context,
        custom_context=True,
        tag=recipe.name,
        target=recipe.stage or None,
        buildargs=dict(arguments),
        rm=True,
        forcerm=True,
        decode=True,
        labels={"muster.image": recipe.name},
    )
    return stream


def _remove_stages(client: APIClient, recipe: Recipe) -> None:
    """Remove the stages of the build, which are as large as the image."""
    import docker.errors

    for image in client.images(filters={"dangling": True, "label": f"{STAGE.lower()}={recipe.name}"}, quiet=True):
        try:
            client.remove_image(image)
        except docker.errors.APIError:  # another build uses it
            continue


def _cut_off() -> tuple[type[Exception], ...]:
    """Return the error types of a response that breaks off."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    unreachable = (docker.errors.DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
    return *unreachable, docker.errors.StreamParseError, json.JSONDecodeError


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_REASON]
