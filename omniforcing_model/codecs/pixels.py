"""Pictures as bytes, and as the numbers in [-1, 1] that a video codec takes and gives."""

import torch
from torch import Tensor

_WHITE = 255
_HALF = _WHITE / 2


def from_pixels(pixels: Tensor) -> Tensor:
    """(..., height, width, 3) uint8 to (..., 3, height, width) float32 in [-1, 1]."""
    return pixels.movedim(-1, -3).float() / _HALF - 1


def to_pixels(pictures: Tensor) -> Tensor:
    """(..., 3, height, width) to (..., height, width, 3) uint8; what lies beyond [-1, 1] is cut."""
    levels = ((pictures.float() + 1) * _HALF).round().clamp(0, _WHITE).to(torch.uint8)
    return levels.movedim(-3, -1).contiguous()
