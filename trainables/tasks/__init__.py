"""Tasks: the protocol, their parameters, how they are loaded, and the built-in autoencoders."""
