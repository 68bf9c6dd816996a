"""Everything once, small and for real, and the clips and weights of that small world."""
