"""docker_arguments: the words of ``docker run`` that a job may give, as fields of the engine's own container configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from muster.core.errors import RequestError

# words that have a better place, and where that is
ELSEWHERE = {
    "-e --env --env-file": "use environment_variables, or secrets for what nobody may see",
    "-v --volume --mount": "use mounts",
    "--network --net --network-alias": "every job has a network of its own; name others in the target's networks",
    "--gpus": "use use_gpu or resources_per_node.gpus",
    "--shm-size": "use shm_size",
    "-m --memory --cpus": "use resources_per_node.memory and resources_per_node.cpus",
    "-w --workdir --entrypoint --name -h --hostname --rm -d --detach": "Muster decides that itself",
    "--restart --init -i --interactive -t --tty -it --read-only": "Muster decides that itself",
    "--pull --platform": "name the image exactly, in environment.image or base_image",
}


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of leaving."""

    def error(self, message: str) -> NoReturn:
        flags = sorted(flag for action in self._actions for flag in action.option_strings if flag.startswith("--"))
        raise RequestError(f"docker_arguments: {message}; taken are {', '.join(flags)}")


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the container configuration: ``User`` and, under ``HostConfig``, the rest.

    :raises RequestError: a word that is not taken, with what to do instead.
    """
    for word in arguments:
        _refuse_what_has_a_place(word)
    known, unknown = _parser().parse_known_args(list(arguments))
    if unknown:
        _parser().error(f"{unknown[0]!r} is not taken")
    host = {name: value for name, value in vars(known).items() if value not in (None, False)}
    return {"User": host.pop("User", ""), "HostConfig": host}


def _refuse_what_has_a_place(word: str) -> None:
    flag = word.split("=", maxsplit=1)[0]
    for flags, remedy in ELSEWHERE.items():
        if flag in flags.split():
            raise RequestError(f"docker_arguments: {flag} is not taken; {remedy}")


def _parser() -> _Parser:
    parser = _Parser(prog="docker_arguments", add_help=False, allow_abbrev=False)
    parser.add_argument("-u", "--user", dest="User")
    lists: dict[str, tuple[str, Callable[[str], Any]]] = {
        "--ulimit": ("Ulimits", _ulimit),
        "--cap-add": ("CapAdd", str),
        "--cap-drop": ("CapDrop", str),
        "--device": ("Devices", _device),
        "--device-cgroup-rule": ("DeviceCgroupRules", str),
        "--security-opt": ("SecurityOpt", str),
        "--add-host": ("ExtraHosts", str),
        "--dns": ("Dns", str),
        "--dns-search": ("DnsSearch", str),
        "--dns-option": ("DnsOptions", str),
        "--group-add": ("GroupAdd", str),
    }
    for flag, (field, kind) in lists.items():
        parser.add_argument(flag, dest=field, action="append", type=kind)
    for flag, field in (("--ipc", "IpcMode"), ("--runtime", "Runtime"), ("--cgroup-parent", "CgroupParent")):
        parser.add_argument(flag, dest=field)
    for flag, field in (("--cpuset-cpus", "CpusetCpus"), ("--cpuset-mems", "CpusetMems")):
        parser.add_argument(flag, dest=field)
    for flag, field in (("--cpu-shares", "CpuShares"), ("--pids-limit", "PidsLimit"), ("--oom-score-adj", "OomScoreAdj")):
        parser.add_argument(flag, dest=field, type=int)
    parser.add_argument("--tmpfs", dest="Tmpfs", action=_Pairs, separator=":")
    parser.add_argument("--sysctl", dest="Sysctls", action=_Pairs, separator="=")
    parser.add_argument("--privileged", dest="Privileged", action="store_true")
    return parser


class _Pairs(argparse.Action):
    """Collects ``name<separator>value`` words into a mapping."""

    def __init__(self, *, separator: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._separator = separator

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, _, value = values.partition(self._separator)
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), name: value})


def _ulimit(text: str) -> dict[str, Any]:
    name, _, value = text.partition("=")
    soft, _, hard = value.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit such as nofile=1024:2048") from None


def _device(text: str) -> dict[str, str]:
    outside, _, rest = text.partition(":")
    inside, _, permissions = rest.partition(":")
    return {"PathOnHost": outside, "PathInContainer": inside or outside, "CgroupPermissions": permissions or "rwm"}
