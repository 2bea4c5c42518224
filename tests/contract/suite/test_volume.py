"""However much a run says and keeps, every line and every byte of it is in the record, once."""

from __future__ import annotations

import hashlib

import pytest

from contract.suite.table import case
from contract.suite.target_lab import TargetLab
from lab import plan_of
from muster.core.state import RunState

# of each of two ranks: whole in a full run and on one target, a fifth elsewhere
LINES = 50_000
MIB = 512
FILES = 300
# each MiB differs from all others, so that one that is missing, doubled or in another's place changes the digest
BIG = """
import hashlib, os, random, sys
rank = int(os.environ["MUSTER_RANK"])
noise = random.Random(rank).randbytes(1 << 20)
seen = hashlib.sha256()
with open(f"outputs/big-{rank}.bin", "wb", buffering=0) as file:
    for number in range(int(sys.argv[1])):
        block = number.to_bytes(8, "big") + noise[8:]
        file.write(block)
        seen.update(block)
print(seen.hexdigest())
"""
SMALL = f"""
import os, pathlib
rank = os.environ["MUSTER_RANK"]
for number in range({FILES}):
    file = pathlib.Path("outputs", f"part-{{number % 50}}", f"{{rank}}-{{number}}.txt")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{{rank}}-{{number}}" * (number % 100 + 1))
"""


@case("100,000 log lines")
@pytest.mark.timeout(900)
def test_a_hundred_thousand_log_lines(lab: TargetLab, whole: bool) -> None:
    count = LINES if whole else LINES // 5
    handle = lab.submit(plan_of(f"for i in range({count}): print('line', i)", lab.store.uri))
    ended = lab.finish(handle, limit=800)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    expected = [f"line {i}" for i in range(count)]
    for rank in (0, 1):
        assert ended.lines(rank) == expected, "what a watcher is told"
        assert lab.recorded_lines(handle, node=rank) == expected, "what the record has"


@case("1 GB of outputs")
@pytest.mark.timeout(900)
def test_a_gigabyte_of_outputs(lab: TargetLab, whole: bool) -> None:
    size = MIB if whole else MIB // 5
    handle = lab.submit(plan_of(BIG, lab.store.uri, arguments=(str(size),)))
    ended = lab.finish(handle, limit=800)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    manifest = lab.manifest(handle)
    assert manifest is not None
    for rank in (0, 1):
        [written] = ended.lines(rank)
        file = manifest.file(f"outputs/big-{rank}.bin")
        assert (file.size, file.sha256) == (size << 20, written)
        assert lab.stored(handle, file.path).sha256() == written, "what the store gives back"
    lab.target.remove(handle)


@case("many small outputs")
@pytest.mark.timeout(900)
def test_many_small_outputs(lab: TargetLab) -> None:
    handle = lab.submit(plan_of(SMALL, lab.store.uri))
    ended = lab.finish(handle, limit=800)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    manifest = lab.manifest(handle)
    assert manifest is not None
    contents = {
        f"outputs/part-{number % 50}/{rank}-{number}.txt": (f"{rank}-{number}" * (number % 100 + 1)).encode()
        for rank in (0, 1)
        for number in range(FILES)
    }
    kept = {file.path: file.sha256 for file in manifest.files if file.path.startswith("outputs/")}
    assert kept == {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    sample = list(contents)[::100]
    assert [lab.stored(handle, path).content() for path in sample] == [contents[path] for path in sample]
