"""Sparse autoencoders of every format in one form: load, check, encode, train."""
