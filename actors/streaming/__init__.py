"""The process that computes a stream's blocks, and the encoder that makes a file of them."""
