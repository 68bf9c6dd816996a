"""The text keys and values of the prompts that are streamed: made once for each, and bounded.

Streams of one prompt share what is made of it. A prompt that no stream reads any more stays for the
next one only while it is small and among the last: in a large model it takes a gigabyte.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.text_context import TextContext

UNREAD_PROMPTS = 4
UNREAD_BYTES = 256 * 2**20


@dataclass(eq=False)
class _Prompt:
    features: PerStream[Tensor]
    context: TextContext
    readers: int = 0


class PromptTexts:
    """Text contexts by their features, the least recently opened first."""

    def __init__(
        self,
        read_text: Callable[[PerStream[Tensor]], TextContext],
        unread_prompts: int = UNREAD_PROMPTS,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        """Start empty.

        Args:
            read_text: of the model, for features on the host.
            unread_prompts: how many are kept of which no stream is open.
            unread_bytes: how much these take together at most.
        """
        self._read_text = read_text
        self._unread_prompts = unread_prompts
        self._unread_bytes = unread_bytes
        self._prompts: list[_Prompt] = []

    def __len__(self) -> int:
        """Prompts that are held."""
        return len(self._prompts)

    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(prompt.context.nbytes() for prompt in self._prompts)

    def open(self, features: PerStream[Tensor]) -> TextContext:
        """The context of these features, (1, text tokens, text width) per held stream on the host,
        for one more stream; its end is said to `close`."""
        prompt = next((one for one in self._prompts if _equal(one.features, features)), None)
        if prompt is None:
            prompt = _Prompt(features, self._read_text(features))
        else:
            self._prompts.remove(prompt)
        self._prompts.append(prompt)
        prompt.readers += 1
        self._forget()
        return prompt.context

    def close(self, context: TextContext) -> None:
        """A stream that read `context` is over."""
        next(one for one in self._prompts if one.context is context).readers -= 1
        self._forget()

    def _forget(self) -> None:
        count = size = 0
        for prompt in [one for one in reversed(self._prompts) if not one.readers]:
            own = prompt.context.nbytes()
            if count == self._unread_prompts or size + own > self._unread_bytes:
                self._prompts.remove(prompt)
            else:
                count, size = count + 1, size + own


def _equal(one: PerStream[Tensor], other: PerStream[Tensor]) -> bool:
    return all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one.present(), other.present(), strict=True)
    )
