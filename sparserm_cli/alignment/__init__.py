"""Uses of a reward model: best of n, preference pairs, training rewards, serving, exports and diagnosis."""
