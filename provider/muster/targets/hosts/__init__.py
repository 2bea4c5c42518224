"""What SSH hosts and a Slurm cluster share: logins, connections, and a folder on each machine filled by digest."""
