"""The documents: the README's DAG loads, commands and files that they name are there, its figures are those last measured."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import benchmark_tables

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(REPOSITORY)) for p in sorted(REPOSITORY.glob("docs/**/*.md"))),
]


def blocks(language: str, document: str = "README.md") -> list[str]:
    """The code blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(document), flags=re.DOTALL | re.MULTILINE)


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def test_the_dag_of_the_readme_loads() -> None:
    source = blocks("python")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 14
    names: dict[str, Any] = {"__file__": str(REPOSITORY / "dags" / "readme.py")}
    exec(compile(source, "README.md", "exec"), names)
    train = names["train"]
    assert {task.task_id for task in train.dag.tasks} == {"train", "register"}
    assert train.downstream_task_ids == {"register"}
    assert (train.node_count, train.distributed_backend) == (2, "gloo")
    assert (REPOSITORY / "dags" / train.source_directory / train.entry_script).is_file()


def test_the_task_of_the_readme_in_containers_can_be_planned() -> None:
    from airflow.sdk import DAG

    from muster.operators.request import requested_job

    names: dict[str, Any] = {"__file__": str(REPOSITORY / "dags" / "readme.py")}
    with DAG("readme_containers", schedule=None) as dag:
        exec(compile(blocks("python")[1], "README.md", "exec"), names)
    (train,) = dag.tasks
    train.store, train.source_directory = "s3://bucket/p", str(REPOSITORY / "dags" / train.source_directory)
    job = requested_job(train)
    assert (job.roles.workers, job.roles.servers, job.node_count) == (2, 1, 2)
    assert (Path(job.source_directory) / job.entry_script).is_file()


def test_the_job_of_the_first_steps_is_the_same_from_airflow_and_from_a_file(tmp_path: Path) -> None:
    from muster.operators.request import requested_job
    from muster.request.job_file import read_job_file
    from muster.request.training_job import training_job

    script, dag = blocks("python", "docs/start.md")
    (tmp_path / "dags" / "sums").mkdir(parents=True)
    (tmp_path / "dags" / "sums" / "train.py").write_text(script)
    compile(script, "train.py", "exec")
    names: dict[str, Any] = {}
    exec(compile(dag, "sums.py", "exec"), names)
    names["train"].dag.fileloc = str(tmp_path / "dags" / "sums.py")
    of_airflow = requested_job(names["train"])
    assert (Path(of_airflow.source_directory) / of_airflow.entry_script).is_file()
    (tmp_path / "sums.yaml").write_text(blocks("yaml", "docs/start.md")[0])
    same = {"name": of_airflow.name, "store": of_airflow.store}
    assert training_job({**read_job_file(tmp_path / "sums.yaml"), **same}, base=tmp_path) == of_airflow


def test_every_target_of_the_muster_toml_that_is_shown_opens(tmp_path: Path) -> None:
    from muster.settings import load_settings
    from muster.targets import open_target

    (tmp_path / "muster.toml").write_text(blocks("toml", "docs/connections.md")[0])
    settings = load_settings(tmp_path, {"HOME": str(tmp_path)})
    assert settings.choose_store() == "s3://bucket/prefix"
    assert {config["type"] for config in settings.targets.values()} == {"local", "docker", "ssh", "slurm"}
    for name in settings.targets:
        assert open_target(settings.choose_target(name), alone=True)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(document), flags=re.MULTILINE))
    assert named
    assert named <= targets


def test_help_tells_every_target() -> None:
    makefile = text_of("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def test_every_muster_command_of_the_readme_is_understood() -> None:
    from muster.cli import _parser

    documents = ("README.md", "docs/start.md")
    text = "\n".join(block for document in documents for block in blocks("sh", document))
    lines = [line for line in text.splitlines() if line.startswith("muster ")]
    commands = {_parser().parse_args(shlex.split(line, comments=True)[1:]).command for line in lines}
    assert commands >= {"run", "ls", "show", "logs", "cancel", "download"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_linked_exists(document: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(document))
    folder = (REPOSITORY / document).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_structure_and_package_agree() -> None:
    package = REPOSITORY / "provider" / "muster"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    named = set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_*]+)*(?:/|\.py))`", text_of("docs/structure.md")))
    assert folders | modules <= named
    assert sorted(name for name in named if not any([*package.glob(name), *REPOSITORY.glob(name)])) == []


def test_every_decision_says_what_violates_it() -> None:
    for path in (REPOSITORY / "docs" / "adr").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        parts = ("**Context.**", "**Decision.**", "**Consequences.**", "**A change violates this when**")
        assert [part for part in parts if part not in text] == [], path.name


def test_figures_of_the_readme_are_those_measured() -> None:
    page = text_of("docs/benchmarks.md")
    benches = re.findall(r"<!-- bench:(\w+) -->", page)
    assert benches == ["launch", "containers", "clusters"]
    for bench in benches:
        path = benchmark_tables.results(bench)
        if path.exists():
            table = benchmark_tables.render(json.loads(path.read_text(encoding="utf-8")))
            assert benchmark_tables.with_table(page, bench, table) == page, f"run scripts/benchmark_tables.py {bench}"
