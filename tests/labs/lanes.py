"""Pytest plugin: with workers (``-n 4``) the tests of each lab run in one lane, by one worker.

A lab so exists once, however many workers there are, and needs no lock. Tests without a lab go to any worker.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# by fixture, the lane of the tests that use it; of several the first counts
LANES = {
    "private": "private-engine",
    "docker_store": "docker",  # runs jobs on the engine
    "workshop": "images",  # only builds images on it
    "engine": "docker",
    "slurm_cluster": "slurm",
    "rack": "ssh",
    "mlflow_server": "mlflow",
    "airflow_db": "airflow",
}
OPENERS = ("lab", "config")  # fixtures that open a lab by the name that is their parameter
OPENED = {"docker": "docker", "slurm": "slurm", "ssh": "ssh", "mlflow": "mlflow"}
ORDER = ("docker", "slurm", "ssh", "images", "airflow", "mlflow", "private-engine")  # in which lanes start: the longest first
# modules whose jobs on this machine prefer the ports of a lane: torchrun's, which an elastic run does not choose anew
SAME_PORTS = {"test_elastic": "slurm"}
SLOW_BUILD = "horovod"  # in the id of a test that needs its wheel, which one lane compiles for minutes
FILE = "lanes_file"


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Worker(config), "lanes-of-worker")
    elif config.getoption("numprocesses", None):
        config.pluginmanager.register(Controller(), "lanes-of-controller")


class Worker:
    """Finds the lane of every test, puts the lanes first, and writes them to a file for the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self.input: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        lanes = {item.nodeid: lane_of(item) for item in items}
        items.sort(key=lambda item: (_place(lanes[item.nodeid]), _in_lane(lanes[item.nodeid], item.nodeid)))
        if self.input["workerid"] == "gw0":
            Path(self.input[FILE]).write_text(json.dumps(lanes), encoding="utf-8")


class Controller:
    """Hands whole lanes to workers, and shows at the end what the tests of each lane took."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="muster-lanes-")
        self.file = Path(self.folder.name) / "lanes.json"
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()

    def pytest_configure_node(self, node: WorkerController) -> None:
        node.workerinput[FILE] = str(self.file)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        return LaneScheduling(config, log, self)

    @cached_property
    def lanes(self) -> dict[str, str]:
        """By id, the lane of every test; "" if any worker may run it. Known once the tests are collected."""
        return dict(json.loads(self.file.read_text(encoding="utf-8")))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        lane = self.lanes.get(report.nodeid, "")
        self.seconds[lane] += report.duration
        self.tests[lane] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("lanes")
        for lane, seconds in self.seconds.most_common():
            terminalreporter.write_line(f"{seconds:7.1f} s  {self.tests[lane]:5} tests  {lane or '(any worker)'}")


class LaneScheduling(LoadScopeScheduling):
    """Gives a lane to a worker as one piece, and every other test by itself; in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any, controller: Controller) -> None:
        super().__init__(config, log)
        self.controller = controller
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return self.controller.lanes[nodeid] or nodeid


def lane_of(item: pytest.Item) -> str:
    """Return the lane of a test, "" if any worker may run it. Tests that share a fixture of their module stay together."""
    fixtures = getattr(item, "fixturenames", ())
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    by_fixture = [lane for fixture, lane in LANES.items() if fixture in fixtures]
    by_parameter = [OPENED.get(parameters[name], "") for name in OPENERS if isinstance(parameters.get(name), str)]
    by_port = SAME_PORTS.get(item.path.stem, "") if "lab" in fixtures else ""
    return next((lane for lane in (*by_fixture, *by_parameter, by_port, _module_lane(item)) if lane), "")


def _module_lane(item: pytest.Item) -> str:
    """Return a lane of the module's own if the test uses a fixture that is made once for its module."""
    definitions = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    return item.path.stem if any(found[-1].scope == "module" for found in definitions if found) else ""


def _place(lane: str) -> int:
    """Return a lane's place in the order: the lanes by their list, those of modules, what any worker may run."""
    if not lane:
        return len(ORDER) + 1
    return ORDER.index(lane) if lane in ORDER else len(ORDER)


def _in_lane(lane: str, nodeid: str) -> int:
    """Return a test's place in its lane: Horovod is compiled first where images are built, and used last where jobs run."""
    if SLOW_BUILD not in nodeid:
        return 1
    return 0 if lane == "images" else 2
