"""The dual-stream transformer: attention, rotation, modulation, and the exchange of its streams."""
