"""Builds environments as container images named by content."""
