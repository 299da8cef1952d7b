"""Rendering of untrusted chat templates in a separate process with limits on time and memory."""
