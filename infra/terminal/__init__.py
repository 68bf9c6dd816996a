"""What a person at a terminal sees: options, one-line errors, progress and logs."""
