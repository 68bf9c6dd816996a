"""What a stream worker runs before its first stream, so that this one is as fast as the next.

Kernels are chosen, compiled or captured, memory is taken and tables are made when something runs
for the first time. Nobody waits for that any more if it ran once.
"""

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.stream_layer import CrossMessage

STREAM_ID = "warm-up of seat"


class SilentPartner:
    """An exchange with nobody: every message holds zeros, so that one half runs alone."""

    def ask(self, message: CrossMessage) -> Tensor:
        """An answer of zeros."""
        return torch.zeros_like(message.queries)

    def hear(self, like: Tensor) -> CrossMessage:
        """A message of zeros."""
        return CrossMessage(*(torch.zeros_like(like) for _ in CrossMessage._fields))

    def answer(self, attended: Tensor) -> None:
        """Nobody hears it."""


def silent_text(config: ModelConfig, tokens: int) -> PerStream[Tensor]:
    """Text features of nothing, (tokens, width) per stream."""
    widths = PerStream(config.text_width, config.text_width)
    if config.modulated_text:
        widths = PerStream(config.video.width, config.audio.width)
    return widths.map(lambda width: torch.zeros(tokens, width))


def warm_up_blocks(config: ModelConfig) -> int:
    """Blocks of a stream with every kind of them.

    They are the first, those that fill the window, one that is seen with a full one, and one that
    pushes another out of it, which is the last.
    """
    return config.layout.full_from + 2
