"""Describe selected directions: promoted tokens, words where they fire, and names that are tested."""
