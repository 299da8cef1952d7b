"""Choose among scored responses: best of n, preference pairs."""
