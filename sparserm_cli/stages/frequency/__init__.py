"""Count how often each latent fires on chosen and on rejected responses."""
