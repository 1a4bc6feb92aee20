"""Improvable gap balancing: its closed forms, the agents that assign weights, and the controls of their comparison."""

from agents.balancers.igb import controls, rl, v1, v2  # noqa: F401  importing a file registers its methods
