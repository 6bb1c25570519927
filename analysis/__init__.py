"""Reads what MLflow has recorded: tables and summaries."""
