"""Training an SAE with SAELens' own trainer."""
