"""Sweeps on a Ray cluster, from a laptop, and the files that make such clusters."""
