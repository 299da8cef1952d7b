"""Export a reward model as a transformers model."""
