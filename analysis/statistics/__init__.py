"""Intervals, corrected tests, importance, neighbourhoods, embeddings."""
