"""Entry of all that runs on a node: ``python -I [-S] start.py guardian|agent|sync|relay|… FOLDER …``; parses anywhere."""

# No syntax here that only newer Pythons know: in an image whose Python is too old, this file says so.
import os
import sys

OLDEST = (3, 10)
# parts that take their arguments as they are, by their modules
PARTS = {
    "log-stream": "muster.node.host.log_stream",
    "queue-control": "muster.node.host.queue_control",
    "probe": "muster.node.preflight.probe",
    "node-control": "muster.node.host.node_control",
    "slurm": "muster.node.slurm.task",
    "slurm-job-control": "muster.node.slurm.job_control",
}
LIBRARIES = "libraries"  # beside the package: what the sync process needs and ranks must not see


def main() -> int:
    """Find the packed library beside this file and hand over to the part that was asked for."""
    if sys.version_info[:2] < OLDEST:
        fail("Python " + sys.version.split()[0] + " (" + sys.executable + ") is too old for Muster's agent: 3.10 is the oldest")
        return 3
    home = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    sys.path.insert(0, home)
    return run_part(home, sys.argv[1], sys.argv[2:])


def run_part(home: str, part: str, arguments: list) -> int:  # type: ignore[type-arg]
    """Run one part; each imports no more than it needs."""
    if part == "guardian":
        from muster.node.agent import guardian

        return guardian.main(arguments[0])
    if part == "agent":
        from muster.node.agent import agent

        return agent.main(arguments[0], life_fd=int(arguments[1]))
    if part == "sync":
        sys.path.insert(1, os.path.join(home, LIBRARIES))
        from muster.store.sync import server

        return int(server.main(arguments))
    if part == "relay":
        from muster.node.host import log_relay

        return log_relay.main(arguments[0], int(arguments[1]))
    if part in PARTS:
        return int(__import__("importlib").import_module(PARTS[part]).main(arguments))
    return compile_package(arguments[0]) if part == "compile" else unknown(part)


def compile_package(folder: str) -> int:
    """Compile every module below a folder."""
    import compileall

    mode = __import__("py_compile").PycInvalidationMode.UNCHECKED_HASH
    return 0 if compileall.compile_dir(folder, quiet=1, invalidation_mode=mode) else 1


def unknown(part: str) -> int:
    """Refuse a part that there is not."""
    fail("start.py: unknown part", repr(part) + "; it is guardian, agent, sync, relay, compile,", ", ".join(PARTS))
    return 2


def fail(*words: str) -> None:
    """Print to stderr."""
    sys.stderr.write(" ".join(words) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
