"""Recorded learning curves replayed through the schedulers on a virtual clock."""
