"""Fit the reward head, its controls and its validation."""
