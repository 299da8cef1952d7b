"""Where a reward is used: best of n, preference pairs, exports, what a model is sensitive to."""
