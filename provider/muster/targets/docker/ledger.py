"""Docker ledger: attempts are containers, and the name of node 0's container is the claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from muster.core.event import Event
from muster.core.plan import JobPlan
from muster.targets.claim import AttemptStatus, Claim, status_of
from muster.targets.contract import Submission
from muster.targets.docker.containers import AttemptContainers, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.docker.launch import Launch, LaunchSettings, LostRace
from muster.targets.docker.termination import await_birth, end, remove_older
from muster.targets.lifecycle import Ledger, Standing, Timing


@dataclass(frozen=True, kw_only=True)
class DockerTiming(Timing):
    """Limits of waiting for an engine, in seconds."""

    engine: float = 600.0  # for one that does not answer to come back


@dataclass(frozen=True, kw_only=True)
class DockerStanding(Standing):
    """``attempts``: all of the job, the owner first."""

    attempts: tuple[AttemptContainers, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DockerLedger(Ledger[DockerStanding]):
    """Jobs of one engine; ``settings`` returns what a plan's attempt is launched with."""

    engine: Engine
    target: str
    settings: Callable[[JobPlan], LaunchSettings]
    timing: DockerTiming = field(default_factory=DockerTiming)

    @property
    def location(self) -> str:
        """Return the engine's URL, for error messages."""
        return self.engine.url

    @property
    def jobs(self) -> Jobs:
        """Return the engine's containers and networks."""
        return Jobs(self.engine.client, self.engine.url)

    def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job, once a launch that is under way has come to an end."""
        return next((attempt.claim for attempt in self._attempts(job_id)), None)

    def standing(self, job_id: str) -> DockerStanding:
        """Return who owns the job and what became of that attempt."""
        attempts = self._attempts(job_id)
        if not attempts:
            return DockerStanding()
        status, ended = self.status(attempts[0])
        return DockerStanding(claim=attempts[0].claim, status=status, end=ended, attempts=tuple(attempts))

    def _attempts(self, job_id: str) -> list[AttemptContainers]:
        """Return a job's attempts, the owner first; launches that nobody brought to an end are removed."""
        attempts = self.jobs.attempts(job_id)
        while attempts and (attempts[0].claim is None or attempts[0].unborn):
            debris = attempts[0]
            if debris.claim is None or not await_birth(self.engine.client, self.engine.url, debris):
                self.jobs.remove([debris])
                self.jobs.remove_networks(job_id, keep=[attempt.id for attempt in attempts[1:]])
            attempts = self.jobs.attempts(job_id)
        return attempts

    def status(self, attempt: AttemptContainers) -> tuple[AttemptStatus, Event | None]:
        """Return the status of an attempt, and its END event unless it runs."""
        if attempt.running:
            return AttemptStatus.RUNNING, None
        with explained(f"reading how attempt {attempt.id.attempt} ended", self.engine.url):
            ended = self.jobs.end_of(attempt)
        commit = attempt.claim is not None and attempt.claim.commit
        return status_of(running=False, end=ended, commit=commit), ended

    def launch(self, claim: Claim, before: DockerStanding, submission: Submission) -> bool:
        """Create the containers, of which the engine lets only one have node 0's name, and start them."""
        owner = before.attempts[0] if before.attempts else None
        if owner is not None:
            self.jobs.rename(owner)
        launch = Launch(
            client=self.engine.client,
            engine_url=self.engine.url,
            target=self.target,
            claim=claim,
            submission=submission,
            settings=self.settings(submission.plan),
            before=owner if claim.commit else None,
        )
        try:
            launch.run()
        except LostRace:
            return False
        remove_older(self.jobs, before.attempts, claim.id)
        return True

    def end(self, standing: DockerStanding, reason: str) -> None:
        """End the attempt's containers; what outlives the grace is killed."""
        assert standing.claim is not None
        timeout = standing.claim.grace + self.timing.kill_slack
        end(self.engine.client, self.engine.url, standing.attempts[0], reason, timeout)

    def plan_of(self, standing: DockerStanding) -> JobPlan:
        """Return the plan of the owning attempt."""
        return self.jobs.assignment_of(standing.attempts[0]).plan

    def delete(self, job_id: str, standing: DockerStanding) -> None:
        """Remove everything of the job from the engine, outputs that were never stored included."""
        self.jobs.remove(standing.attempts)
        self.jobs.remove_networks(job_id)

    def delete_older(self, standing: DockerStanding) -> None:
        """Remove the containers and networks of attempts before the owner."""
        remove_older(self.jobs, standing.attempts, standing.attempts[0].id)
