"""Which trial trains next: asynchronous successive halving by promotion or stopping, and the
budget."""
