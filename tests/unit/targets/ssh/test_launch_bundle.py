"""What an attempt is launched with can be read by the release before and after."""

from __future__ import annotations

import json
from typing import Any

from lab import plan_of
from muster.core.codec import from_data, to_data
from muster.core.store_access import StoreAccess
from muster.targets.contract import Submission
from muster.targets.ssh.launch_bundle import BUNDLE, LaunchBundle

ACCESS = StoreAccess()


def stored(earlier: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """Return a launch bundle as it lies on the first host."""
    submission = Submission(
        job_id="job", generation=1, plan=plan_of("", "s3://none"), archive=None, access=ACCESS, requested=1.0
    )
    data: dict[str, Any] = json.loads(LaunchBundle.files_of(submission, "ssh", earlier)[BUNDLE][0])
    return data


def test_a_commit_finds_the_outputs_of_earlier_ranks_by_its_bundle() -> None:
    bundle = from_data(LaunchBundle, stored((("/a3", "/a2"), ("/b2",))))
    assert (bundle.commits, bundle.output_folders(0), bundle.output_folders(1)) == (True, ("/a3", "/a2"), ("/b2",))


def test_an_attempt_with_ranks_of_its_own_takes_nothing_over() -> None:
    bundle = from_data(LaunchBundle, to_data(stored(())))
    assert (bundle.commits, bundle.output_folders(0)) == (False, ())
