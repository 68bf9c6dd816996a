"""A step of every stage on one rank: time, operations and memory by phase, beside the plan."""
