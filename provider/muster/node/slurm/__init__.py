"""Processes inside a Slurm job and on its login node."""
