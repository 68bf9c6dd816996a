"""Plain classes: one process, one resource claim, one job each."""
