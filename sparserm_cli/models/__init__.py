"""Models: the language model and its response tree, the SAE, the reward head."""
