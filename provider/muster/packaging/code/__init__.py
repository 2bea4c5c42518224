"""Packs a source folder into a snapshot."""
