"""What tests share: tiny models, runs with planted latents, servers, drivers of child processes."""
