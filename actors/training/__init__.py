"""One rank of a training stage, and the sampler of the trajectories."""
