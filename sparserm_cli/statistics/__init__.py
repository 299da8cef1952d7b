"""Pure functions on arrays: rates and tests per latent, intervals over prompts, calibration."""
