"""Measurements of Muster side by side with its peers: `make bench BENCH=launch`."""
