"""Names, places and shapes of runs; imports no torch."""
