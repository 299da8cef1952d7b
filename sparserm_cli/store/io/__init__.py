"""Atomic reads and writes on a local disk or an object store, and JSON with a seal."""
