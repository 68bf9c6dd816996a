"""Checkpoints as files, and the names their tensors carry elsewhere."""
