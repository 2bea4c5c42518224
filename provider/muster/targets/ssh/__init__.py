"""SSH hosts as a target: one connection and one log streamer per host, a queue on the first host."""
