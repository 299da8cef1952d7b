"""Readers of a run directory for notebooks: one row per response, as numpy, pandas or `datasets.Dataset`."""
