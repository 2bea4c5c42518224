"""Operators for DAG authors: train, build an image, register a model."""
