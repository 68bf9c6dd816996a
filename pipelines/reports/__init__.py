"""What the pages of several reports share: their frame, their style, their parts and pictures."""
