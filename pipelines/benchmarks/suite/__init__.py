"""All benchmarks of the engine in one run, each within its time, and a page of what they found."""
