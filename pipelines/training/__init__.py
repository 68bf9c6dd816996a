"""Distillation on Ray: the plan of a run, its groups of workers, and its trajectories."""
