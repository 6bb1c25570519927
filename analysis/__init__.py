"""Reads the record in MLflow: tables, statistics, reports, simulation, the reference study."""
