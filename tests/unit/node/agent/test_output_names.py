"""Names for files of several nodes: same content once, else the lowest node's keeps the name."""

from __future__ import annotations

import dataclasses

from muster.core.manifest import ManifestFile
from muster.node.agent.commands import OutputName
from muster.node.agent.output_names import assign_names


def entry(path: str, sha256: str, node: int) -> ManifestFile:
    return ManifestFile(path=path, size=1, sha256=sha256, key=f"runs/r/g1/{path}", node=node)


def test_a_file_of_one_node_needs_no_order() -> None:
    names = assign_names([entry("outputs/a.bin", "aa", 1)])
    assert [f.path for f in names.files] == ["outputs/a.bin"]
    assert names.to_store == {}


def test_same_content_is_kept_once_and_looked_after_by_the_lowest_node() -> None:
    names = assign_names([entry("outputs/a.bin", "aa", 2), entry("outputs/a.bin", "aa", 1)])
    assert [(f.path, f.node) for f in names.files] == [("outputs/a.bin", 1)]
    assert names.to_store == {1: [OutputName(path="outputs/a.bin", key="runs/r/g1/outputs/a.bin")]}
    assert names.notes == ()


def test_every_file_is_looked_after_where_a_lost_node_may_have_stored_its_own_under_the_same_key() -> None:
    names = assign_names([entry("outputs/a.bin", "aa", 0), entry("outputs/b.bin", "bb", 1)], others_wrote=True)
    assert {node: [file.path for file in files] for node, files in names.to_store.items()} == {
        0: ["outputs/a.bin"],
        1: ["outputs/b.bin"],
    }


def test_other_content_is_kept_beside_and_reported() -> None:
    names = assign_names([entry("outputs/a.bin", "aa", 0), entry("outputs/a.bin", "bb", 1), entry("outputs/a.bin", "aa", 2)])
    assert [(f.path, f.node, f.beside) for f in names.files] == [
        ("outputs/a.bin", 0, ""),
        ("outputs/a.node1.bin", 1, "outputs/a.bin"),
    ]
    assert names.to_store[1] == [OutputName(path="outputs/a.bin", key="runs/r/g1/outputs/a.node1.bin")]
    assert "outputs/a.node1.bin" in names.notes[0]


def test_a_name_beside_that_is_taken_gets_a_number() -> None:
    entries = [entry("outputs/a", "aa", 0), entry("outputs/a", "bb", 1), entry("outputs/a.node1", "cc", 0)]
    assert "outputs/a.node1-2" in {f.path for f in assign_names(entries).files}


def test_a_checkpoint_keeps_its_key_by_content() -> None:
    first = dataclasses.replace(entry("checkpoints/c.pt", "aa", 0), key="runs/r/g1/checkpoint-blobs/aa")
    second = dataclasses.replace(entry("checkpoints/c.pt", "bb", 1), key="runs/r/g1/checkpoint-blobs/bb")
    assert {f.key for f in assign_names([first, second]).files} == {first.key, second.key}
