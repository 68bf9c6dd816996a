"""Work that does not end: the Ray Serve application and the player."""
