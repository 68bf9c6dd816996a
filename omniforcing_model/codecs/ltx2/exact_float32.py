"""Float32 that is float32 on a GPU too.

cuDNN's convolutions round their inputs to TF32, 10 bits of mantissa, unless that is switched off.
Pictures bear it; a mel spectrum, which is a logarithm, and the waveform made of it do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions and products in full float32 while this is open; on a CPU they always are.

    The settings are the process's: other threads see them too, and are slower for as long.
    """
    cudnn: Any = torch.backends.cudnn  # its stubs lack `conv`
    backends = (cudnn.conv, torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
