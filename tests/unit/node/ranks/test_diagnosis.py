"""Exception lines, memory and hints from what ranks print."""

from __future__ import annotations

import pytest

from muster.node.ranks import diagnosis

TRACEBACK = ["step 1", "Traceback (most recent call last):", '  File "t.py", line 1', "RuntimeError: boom", "cleaning up"]


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        (TRACEBACK, "RuntimeError: boom"),
        (["[rank1]: torch.distributed.DistBackendError: NCCL error"], "torch.distributed.DistBackendError: NCCL error"),
        (["torch.OutOfMemoryError: CUDA out of memory. Tried"], "torch.OutOfMemoryError: CUDA out of memory. Tried"),
        (["sh: 1: nvcc: not found"], "sh: 1: nvcc: not found"),
        (["KeyboardInterrupt"], "KeyboardInterrupt"),
        (["all fine"], ""),
        ([], ""),
    ],
)
def test_exception_line(tail: list[str], line: str) -> None:
    assert diagnosis.exception_line(tail) == line


def test_out_of_memory_and_ports() -> None:
    assert diagnosis.out_of_memory(["RuntimeError: CUDA out of memory"])
    assert diagnosis.out_of_memory(["MemoryError: no room"])
    assert not diagnosis.out_of_memory(TRACEBACK)
    assert diagnosis.port_taken(["RuntimeError: The server socket has failed to listen: EADDRINUSE"])


def test_hints_name_the_package_where_it_differs_from_the_module() -> None:
    assert diagnosis.hint("ModuleNotFoundError: No module named 'sklearn.datasets'") == "add 'scikit-learn' to pip_packages"
    assert diagnosis.hint("ValueError: x") == ""
