"""The protocol of a text encoder: prompts in, one context per stream out."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from omniforcing_model.per_stream import PerStream


class TextEncoder(Protocol):
    """Encodes prompts for the cross-attentions of both streams."""

    def encode(self, prompts: Sequence[str]) -> PerStream[Tensor]:
        """Encode prompts to (batch, tokens, width) for each stream; "" is the unconditional one."""
        ...
