"""Data sets: by name, from files and from functions, as arrays in memory."""
