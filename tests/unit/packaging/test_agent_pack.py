"""The packed agent: everything that it imports is in it, and the sync libraries are trimmed to what S3 needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import muster
from muster.packaging import agent_pack


def unpack(files: dict[str, bytes], folder: Path) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_the_trimmed_libraries_make_a_client_without_any_other(tmp_path: Path) -> None:
    files = {**agent_pack.agent_files(), **agent_pack.library_files()}
    unpack(files, tmp_path)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(tmp_path / agent_pack.LIBRARIES)!r}]\n"
        "from muster.core.store_access import StoreAccess; from muster.store.s3.bucket import make_client\n"
        "for endpoint in ('http://somewhere:1', ''):\n"
        " client = make_client(StoreAccess(endpoint_url=endpoint, access_key='a', secret_key='b'))\n"
        " print(client.generate_presigned_url('get_object', Params={'Bucket': 'b', 'Key': 'k'}).split('?')[0])\n"
        "import muster.store.sync.node_sync, botocore, urllib3, six\n"
        "print(all(m.__file__.startswith(sys.path[0]) for m in (botocore, urllib3, six)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["http://somewhere:1/b/k", "https://s3.amazonaws.com/b/k", "True"], done.stderr


def test_what_travels_is_whole_and_is_what_nodes_need(tmp_path: Path) -> None:
    """Every module of it is imported with nothing else of Muster; what only checks a request stays behind."""
    files = {**agent_pack.agent_files(), **agent_pack.library_files()}
    unpack(files, tmp_path)
    modules = sorted(path.removesuffix(".py").replace("/", ".") for path in files if path.startswith("muster/"))
    assert {name.split(".")[1] for name in modules} == {"__init__", "tracking", "core", "node", "store"}
    package = Path(muster.__file__).parent
    for part in ("core", "node", "store"):
        assert {str(path.relative_to(package.parent)) for path in (package / part).rglob("*.py")} <= set(files)
    names = [name.removesuffix(".__init__") for name in modules if name != "muster.node.start"]
    code = (
        f"import importlib, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(tmp_path / agent_pack.LIBRARIES)!r}]\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(all(m.__file__.startswith(sys.path[0]) for n, m in sys.modules.items() if n.startswith('muster')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_ranks_do_not_see_the_libraries() -> None:
    assert all(path.startswith("muster/") for path in agent_pack.agent_files())
    assert all(path.startswith(f"{agent_pack.LIBRARIES}/") for path in agent_pack.library_files())
    assert sum(map(len, agent_pack.library_files().values())) < 8 << 20
