"""Whole clips at once: guidance and the samplers of the teacher and the stage I model."""
