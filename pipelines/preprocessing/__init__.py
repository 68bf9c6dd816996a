"""Clips and captions to a dataset of latents: listing, plans, Ray Data graphs, shards, commit."""
