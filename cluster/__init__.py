"""Clusters. A sweep runs on any Ray cluster that is there already: ``foldrace sweep SPEC --address
host:6379``."""
