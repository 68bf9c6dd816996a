"""One owner per output: leased to an attempt, renewed while its run lives, checked at commits."""
