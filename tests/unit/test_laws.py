"""The laws of the tree that a test can keep: which way imports go, what is standard library only, what names what."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import muster

PACKAGE = Path(muster.__file__).parent
AIRFLOW_PARTS = frozenset({"hooks", "links", "operators", "plugin", "sensors", "triggers"})

# what each part may import of the others; what is not named here may import everything
MAY_IMPORT = {
    "core": {"core"},
    "request": {"core", "request"},
    "tracking": set(),
    "launchers": {"core", "launchers"},
    "node": {"core", "node"},
    "packaging": {"core", "node", "packaging", "request"},
    "store": {"core", "node", "store"},
    "registry": {"core", "node", "store", "registry"},
    "targets": {"core", "node", "packaging", "store", "targets"},
    "runner": {"core", "launchers", "node", "packaging", "registry", "store", "targets"},
    "doctor": {"core", "packaging", "store", "targets"},
    "settings": {"core", "targets"},
    "client": {"core", "request", "runner", "settings", "store", "targets"},
    "cli": {"cli", "client", "core", "doctor", "registry", "request", "runner", "settings", "store", "targets"},
}
# the one file that starts all processes of a node, the sync process among them; the one command that may be given a connection
HANDS_OVER = {"node/start.py": {"store"}, "cli/doctor.py": {"hooks"}}
# what each process or role on a node may import of the others; the files directly in node/ are shared by all
NODE_MAY_IMPORT = {
    "shared": {"shared"},
    "ranks": {"shared", "ranks"},
    "host": {"shared", "host"},
    "slurm": {"shared", "host", "slurm"},
    "preflight": {"shared", "host", "ranks", "preflight"},
    "agent": {"shared", "ranks", "preflight", "agent"},
}
STARTS_ALL = "node/start.py"  # the one entry of every process on a node
STANDARD_LIBRARY_ONLY = ("core", "launchers", "node", "tracking")

LONG = 300  # lines; a file may be longer if it has one idea: it is named here with its reason
LONG_FILES: dict[str, str] = {
    "store/sync/checkpoints.py": "a set of files that existed at one moment: pinned, committed, restored",
    "node/host/queue_control.py": "the commands of the queue server: each request with its handler",
    "node/slurm/job_control.py": "the commands of one login node: each request with its handler",
    "targets/slurm/ledger.py": "the jobs of one cluster",
    "node/agent/gang.py": "the gang and its fixed membership, which name each other",
    "node/ranks/supervisor.py": "one process from its shim's connection to its exit",
    "node/host/log_stream.py": "how logs are read, scheduled and framed, on both sides of one stream",
}

# a docstring says what happens: Return, Start, Raise, Wait, Yield …; a property "Return whether …"
NOT_A_VERB_OF_THE_FIELD = frozenset(
    {"Give", "Have", "Hear", "Let", "Look", "Make", "Note", "Say", "Take", "Tell", "What", "Whether", "Who"}
)
# functions are named by what they do in the field's words: report, receive, retry, return
NOT_A_NAME_OF_THE_FIELD = re.compile("_?(tell|hear|insist|lent|told|wish)")
# folders, or files of none, whose docstrings begin otherwise; to be empty
UNCONVERTED: frozenset[str] = frozenset()

# files that each target and each launcher has under the same name, with the same names in them
TEMPLATES = ("target.py", "launch.py", "session.py", "feed.py", "ledger.py", "check.py", "options.py", "node_restart.py")
ENTRY = "main"  # of each program
# public names that stand for two things; to be empty
NAMED_TWICE: frozenset[str] = frozenset()

LAUNCHER_NAMES = {"pytorch", "tensorflow", "mpi", "torchrun"}
TARGET_NAMES = {"local", "docker", "ssh", "slurm"}
REGISTRIES = ("launchers/__init__.py", "targets/__init__.py", "provider_info.py")


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the package, parsed, by its path."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {str(file.relative_to(PACKAGE)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def part_of(path: str) -> str:
    return path.split("/", maxsplit=1)[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield every module that is imported anywhere in a file, by its whole name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.Module) -> set[str]:
    """Return the parts of Muster that a file imports."""
    names = [name.split(".") for name in imports(tree) if name.split(".")[0] == "muster"]
    return {name[1] for name in names if len(name) > 1 and name[1] != "__version__"}


def words(tree: ast.Module) -> set[str]:
    """Return what a file names: its strings, and the last parts of what it imports."""
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return strings | {part for name in imports(tree) for part in name.split(".") if name.startswith("muster.")}


def test_there_is_something_to_look_at() -> None:
    assert {"core", "launchers", "node", "packaging", "tracking"} <= {part_of(path) for path in modules()}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_one_way(part: str) -> None:
    for path, tree in modules().items():
        if part_of(path) == part:
            assert own_imports(tree) - HANDS_OVER.get(path, set()) <= MAY_IMPORT[part], path


def node_parts(names: Iterator[str]) -> set[str]:
    """Return the parts of ``node/`` that imported names belong to."""
    below = [name.split(".") for name in names if name.startswith("muster.node.")]
    return {name[2] if name[2] in NODE_MAY_IMPORT else "shared" for name in below}


def test_imports_inside_node_go_one_way() -> None:
    for path, tree in modules().items():
        if part_of(path) == "node" and path != STARTS_ALL:
            own = path.split("/")[1] if path.count("/") > 1 else "shared"
            assert node_parts(imports(tree)) <= NODE_MAY_IMPORT[own], path


def test_no_part_is_forgotten() -> None:
    free = AIRFLOW_PARTS | {"__init__", "provider_info"}
    assert {part_of(path) for path in modules()} <= set(MAY_IMPORT) | free


def test_only_airflows_folders_import_airflow() -> None:
    for path, tree in modules().items():
        roots = {name.split(".")[0] for name in imports(tree)}
        assert part_of(path) in AIRFLOW_PARTS or "airflow" not in roots, path


@pytest.mark.parametrize("part", STANDARD_LIBRARY_ONLY)
def test_what_travels_uses_the_standard_library_only(part: str) -> None:
    for path, tree in modules().items():
        if part_of(path) == part:
            roots = {name.split(".")[0] for name in imports(tree)} - {"muster"}
            assert roots <= set(sys.stdlib_module_names), path


@pytest.mark.parametrize("part", STANDARD_LIBRARY_ONLY)
def test_what_travels_is_written_for_the_oldest_python_of_nodes(part: str) -> None:
    for file in [path for path in modules() if part_of(path) == part]:
        ast.parse((PACKAGE / file).read_text(encoding="utf-8"), feature_version=(3, 10))


def test_no_file_names_both_a_launcher_and_a_target() -> None:
    for path, tree in modules().items():
        named = words(tree)
        both = named & LAUNCHER_NAMES and named & TARGET_NAMES
        assert not both or path in REGISTRIES, path


def test_a_target_imports_nothing_of_what_opens_targets() -> None:
    below = {path.split("/")[1].removesuffix(".py") for path in modules() if path.startswith("targets/")}
    for path, tree in modules().items():
        if path.startswith("targets/") and path != "targets/__init__.py":
            names = {name.split(".")[2] for name in imports(tree) if name.startswith("muster.targets.")}
            assert names <= below, path


def test_no_module_has_a_destructor_or_changes_a_global() -> None:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Global), path
            assert not (isinstance(node, ast.FunctionDef) and node.name == "__del__"), path


def test_every_module_says_in_one_line_what_it_owns() -> None:
    for path, tree in modules().items():
        docstring = ast.get_docstring(tree)
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", ";", ":")), path


def folder_of(path: str) -> str:
    """Return the folder of a file as UNCONVERTED names it: of ``node/`` and ``targets/`` the one below, or the file."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] in {"node", "targets"} else parts[0]


def test_a_docstring_begins_with_a_verb_of_the_field() -> None:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                first = (ast.get_docstring(node) or "Return").split()[0].strip(",.:;")
                assert first not in NOT_A_VERB_OF_THE_FIELD or folder_of(path) in UNCONVERTED, (path, node.lineno)  # type: ignore[union-attr]


def test_a_function_is_named_in_words_of_the_field() -> None:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert not NOT_A_NAME_OF_THE_FIELD.match(node.name), (path, node.lineno)


def test_a_public_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path, tree in modules().items():
        template = path.startswith("launchers/") or (path.startswith("targets/") and path.endswith(TEMPLATES))
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append("a template" if template else path)
    twice = {name: found for name, found in places.items() if len(set(found)) > 1}
    assert set(twice) - {ENTRY} <= NAMED_TWICE, twice


def test_a_long_file_has_a_reason() -> None:
    long = {path for path in modules() if (PACKAGE / path).read_text(encoding="utf-8").count("\n") > LONG}
    assert long == set(LONG_FILES), "name the file in LONG_FILES with its one idea, or take it out"
    assert all(LONG_FILES.values())
