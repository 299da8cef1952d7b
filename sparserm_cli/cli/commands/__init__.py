"""One module per command group: each command takes its config and the output, and calls the library once."""

MODULES = (
    "pipeline",
    "scoring",
    "run_directory",
    "sae",
    "transfer",
    "analysis",
    "serve",
    "alignment",
    "data",
    "machine",
)
"""All modules, in the order in which the help lists their commands."""
