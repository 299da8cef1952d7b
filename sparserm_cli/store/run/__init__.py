"""The run directory as a whole: states of artifacts, status, verify and repair, locks."""
