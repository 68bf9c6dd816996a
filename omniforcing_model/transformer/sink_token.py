"""Audio sink tokens (paper section 3.3): learned tokens in front of the first audio block.

They widen the softmax of the sparse audio stream. They run through every layer as audio tokens of
block 0 with the identity rotation, are read by every later query, and leave before the output.
"""

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02


class SinkTokens(nn.Module):
    """`count` learned tokens of `width`; there from the start, used from stage II on."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, width) * INITIAL_STD)

    def prepend(self, audio: Tensor) -> Tensor:
        """Put the sinks before `audio` (batch, tokens, width)."""
        return torch.cat([self.tokens.to(audio.dtype).expand(len(audio), -1, -1), audio], dim=1)
