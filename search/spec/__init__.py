"""The sweep file: read, checked, and turned into a search space."""
