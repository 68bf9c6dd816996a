"""Identity RoPE: the rotation that does nothing, for sink tokens (paper equation 8).

A sink is a place to put attention, not a moment of the clip. Queries do turn, so their scores with
a sink depend on their own time; in a long stream the sinks therefore move with the rest of block 0
(`BlockLayout.anchor_shift_s`), and second 3600 reads them as second 5 did.
"""

import torch
from torch import Tensor


def with_identity_rows(angles: Tensor, rows: int) -> Tensor:
    """Put `rows` angles of zero (cos 1, sin 0) before `angles` (tokens, width / 2)."""
    return torch.cat([angles.new_zeros(rows, angles.shape[1]), angles])
