"""What SSH hosts and a Slurm cluster's nodes have in common: a folder reached by a shell, filled once and found by digest."""

from __future__ import annotations

from muster.targets.hosts.cache import ensure_agent, ensure_archive, ensure_environment
from muster.targets.hosts.host_files import write_files

__all__ = ["ensure_agent", "ensure_archive", "ensure_environment", "write_files"]
