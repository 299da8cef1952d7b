"""Compare SparseRM with its baselines by cross-validation."""
