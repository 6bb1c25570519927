"""The record of a sweep: events, the outbox on disk, and the writer that brings them to MLflow."""
