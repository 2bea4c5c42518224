"""Preflight: checks on every node, and between nodes, before a rank starts."""
