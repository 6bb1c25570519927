"""The reference study: its sweeps, reports and page."""
