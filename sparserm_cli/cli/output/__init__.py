"""The output of each command group, as text for people and as JSON."""
