"""The world of the preset tiny, and measures of its clips that need no weights."""
