"""Time per pass and block of a stream, beside baselines on the same weights."""
