"""A layer's attention and regions compiled for this processor; everything works without."""
