"""Scores of real clips and of every stage's model on the same prompts."""
