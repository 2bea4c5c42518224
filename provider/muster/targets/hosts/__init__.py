"""Shared by SSH hosts and Slurm: logins, connections, and a folder on each machine filled by digest."""
