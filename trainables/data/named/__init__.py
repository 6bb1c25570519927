"""The data sets that have a name: where each comes from, fetched once into the data folder."""
