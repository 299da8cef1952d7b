"""Reward heads on projections: fit, score, attribute, distance from the training data."""
