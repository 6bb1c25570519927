"""Runs the trials of a sweep on Ray Tune: session, tuner, callback, snapshots."""
