"""The Ray Tune trainable, its checkpoints, and the limits of the process that it trains in."""
