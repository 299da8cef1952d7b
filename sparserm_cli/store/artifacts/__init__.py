"""Small artifacts in one piece: frequency, directions, reward, results."""
