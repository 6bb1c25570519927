"""The Ray Tune trainable, and the limits that keep its process within bounds."""
