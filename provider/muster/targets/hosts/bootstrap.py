"""The first program that runs on a host, sent as text: reports what is there, and installs files atomically.

``look ROOT NAME…`` prints JSON; ``unpack ROOT NAME [compile]`` takes a tar into a folder; ``store ROOT NAME SIZE`` a file;
``write FOLDER`` takes a tar into a folder that may be there. Names are paths below ROOT, which may begin with ``~``.
"""

# No syntax here that only newer Pythons know: where the host's is too old, this file says so.
import os
import sys

OLDEST = (3, 10)
READY = ".ready"  # in an environment, written last
CUT_OFF = 4
TAR_END = b"\0" * 1024


def main(arguments: list) -> int:  # type: ignore[type-arg]
    """Run one command; return 3 if this Python is too old."""
    if sys.version_info[:2] < OLDEST:
        sys.stderr.write("Python " + sys.version.split()[0] + " (" + sys.executable + ") is too old: 3.10 is the oldest\n")
        return 3
    os.umask(0o077)
    do = {"report": report_host, "unpack": unpack, "store": store, "write": write}[arguments[0]]
    return int(do(*arguments[1:]))  # type: ignore[operator]


def report_host(root: str, *names: str) -> int:
    """Print what this host is and which of the names are there."""
    import json
    import platform

    root = absolute(root)
    os.makedirs(root, mode=0o700, exist_ok=True)
    name, version = platform.libc_ver()
    seen = {
        "root": root,
        "python": sys.executable,
        "version": ".".join(map(str, sys.version_info[:2])),
        "machine": platform.machine(),
        "glibc": int(version.split(".")[1]) if name == "glibc" else 0,
        "boot": boot(),
        "have": [name for name in names if is_there(os.path.join(root, name))],
    }
    sys.stdout.write(json.dumps(seen) + "\n")
    return 0


def boot() -> str:
    """Return the id of this boot of the host, "" if the kernel has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_there(path: str) -> bool:
    """Return whether a file or folder is complete; an environment is complete when its mark exists."""
    if os.path.basename(os.path.dirname(path)) == "environments":
        return os.path.exists(os.path.join(path, READY)) and os.path.exists(os.path.join(path, "bin", "python"))
    return os.path.exists(path)


def unpack(root: str, name: str, then: str = "") -> int:
    """Unpack a tar from the standard input into a new folder, which gets its name when it is complete."""
    import shutil

    home = os.path.join(absolute(root), name)
    scratch = scratch_of(home)
    os.mkdir(scratch, 0o700)
    try:
        extract(scratch)
        if then == "compile":
            compile_all(scratch)
        publish(scratch, home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def store(root: str, name: str, size: str) -> int:
    """Write a file of so many bytes from the standard input; an input that is cut off looks like one that has ended."""
    import shutil

    home = os.path.join(absolute(root), name)
    scratch = scratch_of(home)
    try:
        with open(scratch, "xb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        received = os.path.getsize(scratch)
        if received != int(size):
            sys.stderr.write("it was cut off: " + str(received) + " of " + size + " bytes came\n")
            return CUT_OFF
        os.replace(scratch, home)
    finally:
        if os.path.exists(scratch):
            os.unlink(scratch)
    return 0


def write(folder: str) -> int:
    """Unpack a tar from the standard input into a folder that may exist."""
    folder = absolute(folder)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    extract(folder)
    return 0


def absolute(path: str) -> str:
    """Return an absolute path; ``~`` is the user's home."""
    return os.path.abspath(os.path.expanduser(path))


def scratch_of(home: str) -> str:
    """Return a unique name beside the final one."""
    os.makedirs(os.path.dirname(home), mode=0o700, exist_ok=True)
    return os.path.join(os.path.dirname(home), ".new-" + os.path.basename(home) + "-" + os.urandom(6).hex())


def extract(folder: str) -> None:
    """Unpack the standard input: files, folders and links of our own packing, with their modes."""
    import tarfile

    source = Tailed(sys.stdin.buffer)
    with tarfile.open(fileobj=source, mode="r|*") as packed:  # type: ignore[call-overload]
        for member in packed:
            member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
            packed.extract(member, folder)
    while source.read(1 << 20):
        pass
    if source.tail != TAR_END:  # cut off between two members, it looks like one that has ended
        raise EOFError("it was cut off")


class Tailed:
    """A stream that keeps the last bytes that were read."""

    def __init__(self, source) -> None:  # type: ignore[no-untyped-def]
        self._source = source
        self.tail = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = bytes(self._source.read(size))
        self.tail = (self.tail + data)[-len(TAR_END) :]
        return data


def compile_all(folder: str) -> None:
    """Compile modules that will be imported many times."""
    import compileall
    import py_compile

    compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def publish(scratch: str, home: str) -> None:
    """Rename the finished folder to its name; the first process wins."""
    try:
        os.rename(scratch, home)
    except OSError:
        if not os.path.isdir(home):
            raise


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
