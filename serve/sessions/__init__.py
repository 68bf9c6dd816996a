"""Streams as a gateway holds them: accepted, computed in turn, kept to go on elsewhere."""
