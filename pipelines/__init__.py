"""Work that ends: data and training graphs, evaluation, and the command line."""
