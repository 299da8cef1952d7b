"""Measure accuracy on labelled data by the rules of each benchmark."""
