"""Clips, which may be hostile: probed and decoded by children of limited time and memory."""
