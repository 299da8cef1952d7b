"""Analyses for people to read: data summary, evaluation, comparison, report and explanation."""
