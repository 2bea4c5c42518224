"""Holds files as they are: hard links in a private folder, which keep a content that is replaced under its own name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from muster.store.s3.upload import Signature
from muster.store.sync.file_scan import Found


@contextmanager
def held(files: Iterable[Found], folder: Path) -> Iterator[tuple[Found, ...]]:
    """Give the files as links in ``folder``, which is there until the end; one that can't be linked is given as it is.

    A file that is replaced or deleted meanwhile takes its space on the disk until the end.
    """
    let_go(folder)
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    try:
        yield tuple(_hold(found, folder / str(number)) for number, found in enumerate(files))
    finally:
        let_go(folder)


def let_go(folder: Path) -> None:
    """Remove the links, also those that a killed process left behind."""
    shutil.rmtree(folder, ignore_errors=True)


def _hold(found: Found, link: Path) -> Found:
    """Give the file as a link, if there can be one: not over two file systems, nor to another user's file, nor everywhere."""
    try:
        os.link(os.path.realpath(found.file), link)  # of a symbolic link, its target: Linux would link to the link
        is_same = Signature.of(link) == found.signature  # some layered file systems copy a file that is linked
    except OSError:
        is_same = False
    return replace(found, file=link) if is_same else found
