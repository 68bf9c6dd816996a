"""Clips: looked into, cut into windows, decoded and refused where they are no good."""
