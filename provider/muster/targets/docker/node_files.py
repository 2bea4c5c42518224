"""Files of a node's container, copied as one tar stream before it starts: folders, code, assignment, credentials."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from muster.core.codec import canonical
from muster.core.errors import RequestError
from muster.core.paths import NodePaths
from muster.core.store_access import StoreAccess
from muster.node.assignment import Assignment
from muster.node.cancel_request import CancelRequest
from muster.targets.contract import Submission
from muster.targets.docker.account import Account

NODE = Path("/muster/node")
ARCHIVE = NODE / "code.tar.gz"  # the packed code, for the leader to store
STORE_CA = NODE / "store-ca.pem"
IN_MEMORY = 4 << 20  # bytes of packed code above which what it holds is laid out on disk
BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Files that all nodes of an attempt share: a tar stream without its end, to be read by many."""

    data: bytes = b""
    file: IO[bytes] | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the stream; several threads may do so at once."""
        if self.data:
            yield self.data
        at = 0
        while self.file is not None and (piece := os.pread(self.file.fileno(), 1 << 20, at)):
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Release what lies on disk."""
        if self.file is not None:
            self.file.close()


def shared_files(submission: Submission, certificate: bytes, owner: Account) -> Shared:
    """Return the files that all nodes share: folders, code, certificate, credentials; private ones for their owner only."""
    paths = NodePaths(root=NODE)
    file: IO[bytes] = tempfile.TemporaryFile() if _is_large(submission.archive) else io.BytesIO()  # noqa: SIM115
    file.write(_folder(NODE.parent, Account(), 0o755) + _folder(NODE, owner, 0o700))
    for folder in (paths.work, paths.outputs, paths.logs, paths.checkpoints, paths.ranks):
        file.write(_folder(folder, owner, 0o755))
    for path, content in {paths.certificate: certificate, **_credentials(submission)}.items():
        file.write(_file(path, content, owner))
    for path, content in owner.files.items():
        file.write(_file(path, content, Account(), 0o644))
    if owner.home_is_ours:
        file.write(_folder(Path(owner.home), owner, 0o700))
    if submission.archive is not None:
        _repack(submission.archive, paths.work, owner, file)
    if isinstance(file, io.BytesIO):
        return Shared(data=file.getvalue())
    file.flush()
    return Shared(file=file)


def node_files(shared: Shared, assignment: Assignment, submission: Submission, owner: Account) -> Iterator[bytes]:
    """Yield the whole tar stream of one node."""
    yield from shared.chunks()
    if assignment.archive and submission.archive is not None:
        info = _info(ARCHIVE, owner, 0o600)
        info.size = submission.archive.stat().st_size
        yield _header(info)
        with submission.archive.open("rb") as packed:
            while piece := packed.read(1 << 20):
                yield piece
        yield _padding(info.size)
    yield _file(NodePaths(root=NODE).assignment, canonical(assignment), owner)
    yield END


def cancel_file(cancel: CancelRequest) -> bytes:
    """Return the tar of a cancel request; no secret, so that any user may read it."""
    return _file(NodePaths(root=NODE).cancel, canonical(cancel), Account(), 0o644) + END


def tree(files: Mapping[str, bytes], root: Path) -> bytes:
    """Return the tar of files below ``root`` that everyone may read."""
    folders = {parent for path in files for parent in (root / path).parents if parent.is_relative_to(root)}
    parts = [_folder(folder, Account(), 0o755) for folder in sorted(folders)]
    parts += [_file(root / path, content, Account(), 0o644) for path, content in files.items()]
    return b"".join([*parts, END])


def _is_large(archive: Path | None) -> bool:
    return archive is not None and archive.stat().st_size > IN_MEMORY


def _credentials(submission: Submission) -> dict[Path, bytes]:
    access, bundle = _access(submission.access)
    files = {NodePaths(root=NODE).access: canonical(access)}
    if bundle:
        files[STORE_CA] = bundle
    if submission.secrets:
        files[NodePaths(root=NODE).secrets] = json.dumps(submission.secrets).encode()
    return files


def _access(access: StoreAccess) -> tuple[StoreAccess, bytes]:
    """Return the access as a node can use it, and the CA bundle that it names, which is a file of this machine."""
    if not access.verify:
        return access, b""
    try:
        bundle = Path(access.verify).read_bytes()
    except OSError as error:
        raise RequestError(
            f"the store's CA bundle {access.verify!r} can't be read: {error.strerror}; correct verify"
        ) from error
    return dataclasses.replace(access, verify=str(STORE_CA)), bundle


def _repack(archive: Path, work: Path, owner: Account, into: IO[bytes]) -> None:
    """Copy packed code, every file below ``work`` and its owner's."""
    with tarfile.open(archive, "r:gz") as packed:
        for member in packed:
            member.name = str(work / member.name).lstrip("/")
            member.uid, member.gid, member.uname, member.gname = owner.uid, owner.gid, "", ""
            member.pax_headers = {}
            into.write(_header(member))
            if member.isreg():
                content = packed.extractfile(member)
                assert content is not None
                shutil.copyfileobj(content, into)
                into.write(_padding(member.size))


def _file(path: Path, content: bytes, owner: Account, mode: int = 0o600) -> bytes:
    info = _info(path, owner, mode)
    info.size = len(content)
    return _header(info) + content + _padding(info.size)


def _folder(path: Path, owner: Account, mode: int) -> bytes:
    info = _info(path, owner, mode)
    info.type = tarfile.DIRTYPE
    return _header(info)


def _info(path: Path, owner: Account, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(str(path).lstrip("/"))
    info.uid, info.gid, info.mode = owner.uid, owner.gid, mode
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return b"\0" * (-size % BLOCK)
