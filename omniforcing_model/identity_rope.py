"""Identity RoPE: the rotation that does nothing, for sink tokens (paper equation 8).

A sink is a place to put attention, not a moment: rotate it and second 1 would see another sink than
second 60.
"""

import torch
from torch import Tensor


def with_identity_rows(angles: Tensor, rows: int) -> Tensor:
    """Put `rows` angles of zero (cos 1, sin 0) before `angles` (tokens, width / 2)."""
    return torch.cat([angles.new_zeros(rows, angles.shape[1]), angles])
