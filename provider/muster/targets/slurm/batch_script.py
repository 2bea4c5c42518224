"""The batch job: sbatch's arguments and the script; the one place where a Slurm job's words become shell, by shlex."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from muster.core.errors import MusterError, RequestError, TargetError
from muster.core.paths import BatchPaths
from muster.core.plan import JobPlan
from muster.node.slurm.replies import SubmitOutcome
from muster.targets.claim import Claim
from muster.targets.slurm.options import Options

MIB = 1 << 20
MODULES = """if ! command -v module >/dev/null 2>&1; then . /etc/profile; fi
module load {modules} || {{ echo "muster: module load failed" >&2; exit 1; }}"""
SCRIPT = """#!/bin/bash
# Muster: {marker}
{before}
{srun}
"""


def comment_of(claim: Claim) -> str:
    """Return the comment of the batch job that was submitted for a claim."""
    return f"muster:{claim.id.marker}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One job as it is submitted. ``start``: the agent's entry on the nodes, ``python`` what runs it."""

    claim: Claim
    plan: JobPlan
    paths: BatchPaths
    options: Options
    start: str
    python: str

    @property
    def comment(self) -> str:
        """Return the comment by which, with its name, the job is found again."""
        return comment_of(self.claim)

    def argv(self) -> list[str]:
        """Return sbatch with its arguments, but for the script."""
        claim, options = self.claim, self.options
        own = [f"--job-name={claim.job_id}", f"--comment={self.comment}", f"--chdir={self.paths.root}"]
        own += [f"--output={self.paths.output}", "--open-mode=append", "--export=ALL", "--parsable"]
        own += [f"--nodes={claim.nodes}", f"--ntasks={claim.nodes}", "--ntasks-per-node=1"]
        own.append("--requeue" if options.requeue else "--no-requeue")
        return [options.command("sbatch"), *own, *self._asked(), *options.sbatch_options]

    def _asked(self) -> Iterator[str]:
        """Yield the options that the connection and the plan ask for."""
        options, needs = self.options, self.plan.needs
        named = ("partition", "qos", "account", "constraint", "nodelist", "exclude")
        yield from (f"--{name}={getattr(options, name)}" for name in named if getattr(options, name))
        if options.time_limit:
            yield f"--time={options.time_limit}"
        yield f"--cpus-per-task={self._cpus()}"
        if needs.gpus and not self.claim.commit:
            yield f"--gres={options.gres}:{needs.gpus}"
        if options.memory or needs.memory:
            yield f"--mem={math.ceil(needs.memory / MIB)}M" if needs.memory else f"--mem={options.memory}"
        if self.plan.elastic:
            yield "--no-kill"

    def _cpus(self) -> int:
        """Return the CPUs of a node's task: those asked for, else one for each rank."""
        if self.claim.commit:
            return 1
        asked = self.options.cpus_per_task or math.ceil(self.plan.needs.cpus)
        return asked or max(1, *(len(node.ranks) for node in self.plan.nodes))

    def script(self) -> str:
        """Return the script; it holds no secret."""
        before = "\n".join(self._before())
        return SCRIPT.format(marker=self.claim.id.marker, before=before, srun=shlex.join(self._srun()))

    def _before(self) -> Iterator[str]:
        if self.options.bin:
            yield f"export PATH={shlex.quote(self.options.bin)}:$PATH"
        if self.options.modules:
            yield MODULES.format(modules=shlex.join(self.options.modules))
        if self.options.prologue:
            yield self.options.prologue

    def _srun(self) -> list[str]:
        """Return srun's command: one task on every node, which outlives the others."""
        nodes = str(self.claim.nodes)
        own = ["--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", f"--cpus-per-task={self._cpus()}", "--export=ALL"]
        own += ["--mpi=none", "--wait=0", "--kill-on-bad-exit=0", "--input=none", "--unbuffered"]
        if self.plan.elastic:
            own.append("--no-kill")
        program = [self.python, "-I", "-S", self.start, "slurm", str(self.paths.root)]
        return ["srun", *own, *self.options.srun_options, *self.options.wrapper, *program]


def submit_error(job_id: str, outcome: SubmitOutcome, message: str) -> MusterError:
    """Return the error for a job that sbatch gave no number for; without the prefix of every line of sbatch's."""
    why = message.replace("sbatch: error: ", "").strip() or "sbatch did not say why"
    if outcome is SubmitOutcome.REFUSED:
        return RequestError(f"Slurm refuses run {job_id}: {why}")
    if outcome is SubmitOutcome.FULL:
        return TargetError(f"Slurm does not take run {job_id} now: {why}; submit it again later")
    doubt = f"Slurm did not say whether it has taken run {job_id}: {why}"
    return TargetError(f"{doubt}; submit it again: a job that it has taken is found by its name")
