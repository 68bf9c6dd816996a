"""Codecs: pictures, sound and prompts to what the model sees, and back."""
