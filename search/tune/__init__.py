"""A sweep's trials on Ray Tune: session, tuner, callback, snapshots."""
