"""Which trial trains next: asynchronous successive halving, and the budget."""
