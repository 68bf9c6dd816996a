"""Clips and captions to latents and text features, by the codecs of the configuration."""
