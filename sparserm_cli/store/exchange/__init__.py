"""Captures in and out as one HDF5, .npz or .safetensors file."""
