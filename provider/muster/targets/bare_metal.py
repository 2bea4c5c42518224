"""Options that only containers have, and their refusal by targets without containers."""

from __future__ import annotations

import os
from pathlib import Path

from muster.core.errors import RequestError
from muster.core.plan import JobPlan
from muster.targets.contract import Log


def check_plan(plan: JobPlan, target: str, log: Log) -> None:
    """Refuse what only containers have; a folder to be mounted is fine where it has the wished name already.

    :raises RequestError: an image, apt packages, steps, docker arguments, or a mount at another place.
    """
    environment = plan.environment
    options = (
        ("image", environment.image),
        ("apt_packages", environment.apt_packages),
        ("steps", environment.steps),
        ("docker_arguments", plan.container.arguments),
    )
    for name, value in options:
        if value:
            shown = value if isinstance(value, str) else " ".join(value)
            raise RequestError(
                f"{name} = {shown!r} needs containers, which target {target!r} has not; leave it out, or choose a docker target"
            )
    for mount in plan.container.mounts:
        _check_mount(mount.source, mount.target, target)
    if environment.base_image:
        log(f"base image {environment.base_image} plays no part on target {target}: its nodes are no containers")


def _check_mount(source: str, place: str, target: str) -> None:
    if Path(source) != Path(place):
        raise RequestError(
            f"mounts: {source!r} can't be shown at {place!r} on target {target!r}, whose nodes are no containers; "
            "use the same path for both, or choose a docker target"
        )
    if not os.path.isdir(source):
        raise RequestError(f"mounts: there is no folder {source!r} on target {target!r}; mount or make it first")
