"""The page about a demo."""
