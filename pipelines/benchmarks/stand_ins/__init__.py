"""Random models and codecs of the released shapes, where weights are not there."""
