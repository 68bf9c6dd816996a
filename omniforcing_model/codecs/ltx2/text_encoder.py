"""LTX-2's text path: Gemma 3, then the connectors, through transformers and diffusers.

Every hidden state of Gemma is read, not the last alone: 49 of them, side by side, are normalised
(per layer in LTX-2.0, per token in 2.3), projected, and pass through a small transformer per
stream, in which learned registers fill the positions that the prompt leaves free. The connectors of
diffusers do all that; this file feeds them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from omniforcing_model.codecs.ltx2.pretrained import load_pretrained
from omniforcing_model.codecs.ltx2.single_file import read_part
from omniforcing_model.errors import ShapeError
from omniforcing_model.per_stream import PerStream


class Ltx2TextEncoder(nn.Module):
    """A `TextEncoder` of Gemma 3, its tokenizer, and diffusers' `LTX2TextConnectors`."""

    def __init__(self, gemma: Any, tokenizer: Any, connectors: Any, tokens: int = 1024) -> None:
        """Wrap the three; `tokens` is the length of a context, 1024 in LTX-2.

        ShapeError unless the connectors' registers divide it.
        """
        super().__init__()
        self.gemma = gemma.eval().requires_grad_(False)
        self.connectors = connectors.eval().requires_grad_(False)
        self.tokens = tokens
        registers = connectors.config.video_connector_num_learnable_registers or 1
        if tokens % registers:
            raise ShapeError(
                f"expected a multiple of the connectors' {registers} registers, got {tokens} text"
                " tokens; LTX-2 takes 1024"
            )
        # The prompt is at the end: with a causal model the padding before it is masked, and
        # LTX-2 was trained on these positions.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        gemma: Path,
        tokenizer: Path,
        connectors: Path,
        tokens: int = 1024,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Read the folders of all three; the connectors also from LTX-2's single file.

        WeightsError if one of them is missing or incomplete.
        """
        # Here, because both are optional dependencies and take seconds to import.
        from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors  # noqa: PLC0415
        from transformers import AutoTokenizer, Gemma3ForConditionalGeneration  # noqa: PLC0415

        words = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
        # Gemma's folder may hold more tensors; those that LTX-2 needs are checked all the same.
        encoder = load_pretrained(Gemma3ForConditionalGeneration, gemma, dtype, exact=False)
        if connectors.is_file():
            joined = read_part("connectors", connectors, dtype)
        else:
            joined = load_pretrained(LTX2TextConnectors, connectors, dtype)
        return cls(encoder, words, joined, tokens)

    def encode(self, prompts: Sequence[str]) -> PerStream[Tensor]:
        """Encode prompts to (batch, tokens, width) for each stream, float32 on the CPU.

        Prompts longer than `tokens` are cut. One after the other: features do not depend on a
        prompt's neighbours, and 49 hidden states of 1024 tokens take 0.4 GB in bfloat16.
        """
        encoded = [self.connect(*self.hidden_states(prompt)) for prompt in prompts]
        if not encoded:
            width = self._widths()
            return width.map(lambda size: torch.zeros(0, self.tokens, size))
        return encoded[0].map(lambda *values: torch.cat(values), *encoded[1:])

    @torch.no_grad()
    def hidden_states(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Gemma's hidden states of one prompt, and which tokens are words.

        Returns (1, tokens, width of Gemma, layers + 1), its embeddings first, and a mask
        (1, tokens) with 1 for a token of the prompt.
        """
        words = self._tokenizer(
            [prompt.strip()],
            padding="max_length",
            max_length=self.tokens,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        ).to(self.gemma.device)
        # Without the head: the scores of 262,208 words are not needed.
        states = self.gemma.model(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return torch.stack(states, -1), words.attention_mask

    @torch.no_grad()
    def connect(self, hidden_states: Tensor, mask: Tensor) -> PerStream[Tensor]:
        """Context of hidden states, (batch, tokens, width) per stream.

        hidden_states: (batch, tokens, width of Gemma, layers + 1), or with the last two axes
        flattened; mask: (batch, tokens), 1 for words, which are at the end.
        """
        states = hidden_states.to(self.connectors.device, self.connectors.dtype)
        video, audio, _ = self.connectors(states, mask.to(states.device), padding_side="left")
        return PerStream(video, audio).map(lambda context: context.float().cpu())

    def _widths(self) -> PerStream[int]:
        connectors = self.connectors
        return PerStream(connectors.video_connector, connectors.audio_connector).map(
            lambda connector: connector.inner_dim
        )
