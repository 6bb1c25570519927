"""The sweep file: how it is read and checked, and the search space that it describes."""
