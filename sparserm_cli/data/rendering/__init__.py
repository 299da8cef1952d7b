"""Rendering of untrusted chat templates in a limited process of their own, and tokenising of the text."""
