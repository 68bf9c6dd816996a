"""A stream with its codecs, and what a decoder loses in blocks."""
