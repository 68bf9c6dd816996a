"""What a run would do, hold and cost, and whether this machine is ready for it."""
