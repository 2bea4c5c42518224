"""An environment as a container image named by content."""
