"""What `omniforcing bench` measures, and what it measures against."""
