"""Every rank says hello, and that it has heard of all others."""

from mpi4py import MPI

world = MPI.COMM_WORLD
ranks = world.allreduce(1)
print(f"hello from rank {world.rank} of {ranks} on {MPI.Get_processor_name()}", flush=True)
