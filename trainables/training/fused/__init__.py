"""Several folds of a trial trained as one batched program."""
