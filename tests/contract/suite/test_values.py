"""What users write reaches the ranks as they wrote it, and what ranks write comes back as they wrote it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from contract.suite.table import case
from contract.suite.target_lab import TargetLab
from lab import HOSTILE, plan_of
from muster.core.state import RunState
from muster.packaging.code import snapshot

NAMES = (
    "späße 模型 🚀.bin",
    "n\u0303 e\u0301.txt",  # decomposed letters stay decomposed
    "a b",
    'say "hi"',
    "it's",
    "$HOME",
    "-x",
    "%41%2F",
    "back\\slash",
    "two\nlines",
    "größe/模型/weights",
    "x" * 180 + "/" + "y" * 180,
)


@case("hostile arguments")
def test_hostile_arguments(lab: TargetLab) -> None:
    code = f"import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ[f'V{{i}}'] for i in range({len(HOSTILE)})]]))"
    env = tuple((f"V{i}", value) for i, value in enumerate(HOSTILE))
    ended = lab.run(plan_of(code, lab.store.uri, arguments=HOSTILE, env=env))
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    for rank in (0, 1):
        assert [json.loads(line) for line in ended.lines(rank)] == [[list(HOSTILE), list(HOSTILE)]]


@case("unicode names")
def test_unicode_names(lab: TargetLab) -> None:
    for name in NAMES:
        file = lab.folder / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"of {name}", encoding="utf-8")
    packed = snapshot.pack(lab.folder / "code", lab.folder / "cache")
    code = (
        "import json, os, pathlib, shutil\n"
        f"names = json.loads({json.dumps(NAMES)!r})\n"
        "assert {str(path) for path in pathlib.Path('.').rglob('*') if path.is_file()} == set(names)\n"
        "if os.environ['MUSTER_RANK'] == '1':\n"
        " for name in names:\n"
        "  kept = pathlib.Path('outputs', name)\n"
        "  kept.parent.mkdir(parents=True, exist_ok=True)\n"
        "  kept.write_bytes(pathlib.Path(name).read_bytes())\n"
        "print(json.dumps([pathlib.Path(name).read_text('utf-8') for name in names]), '模型 🚀')"
    )
    plan = dataclasses.replace(plan_of(code, lab.store.uri), name="größe 模型 🚀", snapshot=packed.digest)
    handle = lab.submit(plan, archive=packed.archive)
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    for rank in (0, 1):
        assert ended.lines(rank) == [json.dumps([f"of {name}" for name in NAMES]) + " 模型 🚀"]
    manifest = lab.manifest(handle)
    assert manifest is not None
    kept = {file.path: file.sha256 for file in manifest.files if file.path.startswith("outputs/")}
    assert kept == {f"outputs/{name}": hashlib.sha256(f"of {name}".encode()).hexdigest() for name in NAMES}
    for name in NAMES:
        assert lab.stored(handle, f"outputs/{name}").content() == f"of {name}".encode()
    fetched = lab.store.open().download(handle.job_id, "outputs", lab.folder / "got")
    assert {str(Path(path).relative_to(lab.folder / "got")) for path in fetched} == {f"outputs/{name}" for name in NAMES}
