"""A source tree as a digest and an archive."""
