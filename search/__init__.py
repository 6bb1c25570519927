"""The sweep: its file, the space it searches, the searcher and scheduler, the recorder, and the
refit of the winner."""
