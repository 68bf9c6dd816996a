"""The objectives of the stages, one file each, and what they share."""
