"""What the speed is, measured side by side: `make bench`."""
