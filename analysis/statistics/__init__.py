"""Confidence intervals, corrected tests, parameter importance, neighbourhoods, maps."""
