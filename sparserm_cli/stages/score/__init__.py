"""Score new responses."""
