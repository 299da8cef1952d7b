"""The truncated language model: blocks, trie attention, residual vectors, pooling."""
