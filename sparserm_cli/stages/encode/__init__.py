"""Encode captured tokens into latents of a sparse autoencoder."""
