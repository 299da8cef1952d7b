"""Fits of heads to pairs: linear heads, heads with a hidden layer, and the choice of their penalty."""
