"""The regions as Triton kernels, one each; imported only where Triton is installed."""
