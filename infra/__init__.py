"""What every program here needs besides the model: runs, files, clusters. It loads no torch."""
