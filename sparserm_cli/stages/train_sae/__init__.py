"""Train a sparse autoencoder for a model that has none."""
