"""Capture residual activations of preference pairs."""
