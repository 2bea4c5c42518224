"""A Slurm cluster as a target."""
