"""Which video and audio replica work together, and who streams through them."""
