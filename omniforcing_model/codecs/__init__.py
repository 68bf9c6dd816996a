"""Codecs: pictures, sound and prompts to latents and features, and latents back."""
