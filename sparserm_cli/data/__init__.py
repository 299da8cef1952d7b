"""Rows in: files, row shapes, chat template, the prompt/response boundary, grouped splits."""
