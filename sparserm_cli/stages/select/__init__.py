"""Select preference directions."""
