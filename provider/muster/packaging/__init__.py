"""Code to a digest and an archive, packages to a lock, a lock to a cached environment; and the agent's own pack."""
