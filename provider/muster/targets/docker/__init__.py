"""One Docker engine as a target."""
