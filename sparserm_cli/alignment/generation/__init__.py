"""Rewards while a policy generates: scores from its own passes, and best of n that drops the worst early."""
