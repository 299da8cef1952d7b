"""Reward functions for TRL, verl and OpenRLHF, local or remote."""
