"""What a block of a stream launches on a GPU, counted without one and compared with a profile."""
