"""Measure how sensitive a model is to padding, BOS token, template and number type."""
