"""Packs code into a snapshot, packages into a lock and an environment or image, and the node agent itself."""
