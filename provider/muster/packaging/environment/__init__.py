"""Resolves packages into a lock, and builds the lock's environment."""
