"""Words as fixed random vectors: enough for a grammar of a few dozen words, without a download."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.seeds import seed_of

_POSITION_SCALE = 0.25
_POSITION_THETA = 100.0


@lru_cache(maxsize=65_536)
def _random_vector(name: str, width: int) -> NDArray[np.float32]:
    """A vector of unit variance, the same for a name on every platform and numpy version."""
    seed = seed_of(name, bits=128, byteorder="big")
    # The raw bits of PCG64 are fixed for ever; the methods of Generator may change.
    bits = np.random.PCG64(seed).random_raw(width)
    uniform = bits.astype(np.float64) / 2.0**64 - 0.5
    vector: NDArray[np.float32] = (uniform * np.sqrt(12.0)).astype(np.float32)
    return vector


def _positions(tokens: int, width: int) -> NDArray[np.float32]:
    frequencies = _POSITION_THETA ** -(np.arange(width // 2) / (width // 2))
    angles = np.arange(tokens)[:, None] * frequencies
    waves = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
    return (_POSITION_SCALE * waves).astype(np.float32)


class TinyTextEncoder:
    """A `TextEncoder`: a vector per word and position, registers in the unused positions.

    Case and punctuation do not matter; words beyond `tokens` are cut off. Both streams get the
    same context.
    """

    def __init__(self, tokens: int = 32, width: int = 64) -> None:
        self.tokens = tokens
        self.width = width
        registers = [_random_vector(f"<register {place}>", width) for place in range(tokens)]
        self._registers = np.stack(registers)
        self._positions = _positions(tokens, width)

    def _encode_one(self, prompt: str) -> NDArray[np.float32]:
        context = self._registers.copy()
        words = re.findall(r"\w+", prompt.lower())[: self.tokens]
        for place, word in enumerate(words):
            context[place] = _random_vector(word, self.width) + self._positions[place]
        return context

    def encode(self, prompts: Sequence[str]) -> PerStream[Tensor]:
        """Encode prompts to (batch, tokens, width) for each stream; "" gives the registers."""
        empty = np.zeros((0, self.tokens, self.width), np.float32)
        contexts = [self._encode_one(prompt) for prompt in prompts]
        context = torch.from_numpy(np.stack(contexts) if contexts else empty)
        return PerStream(video=context, audio=context)
