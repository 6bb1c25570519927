"""Tasks: the protocol, the parameters, and the built-in autoencoders."""
