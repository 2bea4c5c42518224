"""Packages as a lock and a cached environment."""
