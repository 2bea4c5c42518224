"""Sums a buffer over all ranks again and again, and prints the steps per second: allreduce.py STEPS FLOATS."""

import sys
import time
from array import array

from mpi4py import MPI

steps, size = int(sys.argv[1]), int(sys.argv[2])
world = MPI.COMM_WORLD
mine, total = array("f", [1.0]) * size, array("f", [0.0]) * size
for _ in range(steps // 10):
    world.Allreduce([mine, MPI.FLOAT], [total, MPI.FLOAT])
world.Barrier()
began = time.perf_counter()
for _ in range(steps):
    world.Allreduce([mine, MPI.FLOAT], [total, MPI.FLOAT])
took = time.perf_counter() - began
assert total[0] == total[-1] == world.size, total[0]
if world.rank == 0:
    print(f"steps per second: {steps / took:.2f}", flush=True)
