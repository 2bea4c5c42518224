"""Options: how jobs are submitted to a cluster, as connections, muster.toml and dictionaries write it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import RequestError

TEXTS = ("partition", "qos", "account", "time_limit", "constraint", "nodelist", "exclude", "gres", "memory", "bin", "prologue")
LISTS = ("modules", "wrapper", "srun_options", "sbatch_options")
NUMBERS = ("cpus_per_task", "poll_interval")
FIELDS = (*TEXTS, *LISTS, *NUMBERS, "requeue")
# what Muster says itself; said twice, the job would not be the one that is looked for
OWNED = (
    *("--job-name", "-J", "--comment", "--nodes", "-N", "--ntasks", "-n", "--ntasks-per-node", "--array", "-a", "--wrap"),
    *("--output", "-o", "--error", "-e", "--chdir", "-D", "--parsable", "--wait", "-W", "--export", "--open-mode"),
)
# a short option, which may follow others that take no value, and be followed by its value
_SHORT = re.compile(f"-[hHIkOQsuvV]*([{''.join(name[1] for name in OWNED if len(name) == 2)}])")
YES, NO = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a job asks Slurm for beside nodes and GPUs; "" and 0 leave it to the cluster.

    ``gres``: the name of GPUs there, with a type if one is wanted (``gpu:a100``). ``cpus_per_task``: of a node's one task,
    which holds all its ranks. ``modules`` are loaded, ``prologue`` is shell that runs before the nodes start; ``wrapper`` is
    put before the program on each node (``apptainer exec IMAGE``), ``srun_options`` before that. ``bin``: folder of Slurm's
    commands. ``poll_interval``: seconds between two questions for the states of all jobs.
    """

    partition: str = ""
    qos: str = ""
    account: str = ""
    time_limit: str = ""
    constraint: str = ""
    nodelist: str = ""
    exclude: str = ""
    gres: str = "gpu"
    memory: str = ""
    bin: str = ""
    prologue: str = ""
    modules: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    srun_options: tuple[str, ...] = ()
    sbatch_options: tuple[str, ...] = ()
    cpus_per_task: int = 0
    poll_interval: float = 5.0
    requeue: bool = True

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Options:
        """Read the fields of a configuration.

        :raises RequestError: a value that the field can't have, or an option that is Muster's own.
        """
        given = {name: value for name, value in fields.items() if name in FIELDS and value not in (None, "", (), [])}
        values: dict[str, Any] = {name: str(given[name]) for name in TEXTS if name in given}
        values.update({name: _words(name, given[name]) for name in LISTS if name in given})
        values.update({name: _number(name, given[name]) for name in NUMBERS if name in given})
        if "cpus_per_task" in values:
            values["cpus_per_task"] = int(values["cpus_per_task"])
        if "requeue" in given:
            values["requeue"] = _switch("requeue", given["requeue"])
        _refuse_owned(values.get("sbatch_options", ()))
        return cls(**values)

    def command(self, name: str) -> str:
        """Give one of Slurm's commands as it is called."""
        return f"{self.bin.rstrip('/')}/{name}" if self.bin else name


def _words(name: str, value: Any) -> tuple[str, ...]:
    """Give a list; a text is split as a shell would."""
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise RequestError(f"the target's {name} = {value!r} can't be split into words: {error}; give a list") from error
    if not isinstance(value, (list, tuple)):
        raise RequestError(f"the target's {name} must be a list or a text, got {value!r}")
    return tuple(str(word) for word in value)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if number <= 0 or isinstance(value, bool):
        raise RequestError(f"the target's {name} must be a number above 0, got {value!r}")
    return number


def _switch(name: str, value: Any) -> bool:
    if str(value).lower() not in YES + NO:
        raise RequestError(f"the target's {name} must be true or false, got {value!r}")
    return str(value).lower() in YES


def _refuse_owned(options: tuple[str, ...]) -> None:
    for option in options:
        if name := _owned_by(option):
            raise RequestError(f"sbatch_options: {option} would change {name}, which Muster says itself; leave it out")


def _owned_by(option: str) -> str:
    """Give what of Muster's own a word would say anew, in whatever way sbatch takes it; "" if nothing."""
    if option == ":":
        return "the number of jobs"
    if option.startswith("--"):  # an option's name may be cut short
        return next((name for name in OWNED if name.startswith(option.partition("=")[0])), "")
    short = _SHORT.match(option)
    return f"-{short[1]}" if short else ""
