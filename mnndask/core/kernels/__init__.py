"""Compiled loops over pairs of cells, and what they need: the only place for numba."""
