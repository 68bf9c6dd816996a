"""What one forward pass attends to: where its tokens are in time, and which keys it may read.

The same transformer is the bidirectional teacher, the masked student of stage II and the cached
student of stage III and serving; only the view differs.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.operands import Slot
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.latent_clock import audio_latent_span_s, video_latent_span_s
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.rope import (
    RotaryTable,
    Span,
    audio_spans,
    audio_tables,
    video_spans,
    video_tables,
)

Pathway = Literal["video_self", "audio_self", "audio_to_video", "video_to_audio"]
KEY_STREAM: dict[Pathway, Literal["video", "audio"]] = {
    "video_self": "video",
    "audio_self": "audio",
    "audio_to_video": "audio",
    "video_to_audio": "video",
}
QUERY_STREAM: dict[Pathway, Literal["video", "audio"]] = {
    "video_self": "video",
    "audio_self": "audio",
    "audio_to_video": "video",
    "video_to_audio": "audio",
}

CPU = torch.device("cpu")


class KeysValuesMask(NamedTuple):
    """Keys and values an attention reads, (batch, heads, keys, head_dim), and who may see them."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class StreamRotations(NamedTuple):
    """How one stream's tokens turn in its self attention and in the cross-modal ones."""

    within: Rotation
    across: Rotation


class TokenColumns(NamedTuple):
    """Which of sigma's columns each token of a stream has; sinks have the first.

    of_token: (tokens,), int64. counts: tokens of each column, which come in order.
    """

    of_token: Tensor
    counts: tuple[int, ...]

    def part(self, tokens: slice) -> "TokenColumns":
        """The columns of some tokens in a row."""
        first, last, _ = tokens.indices(sum(self.counts))
        ends = list(accumulate(self.counts))
        starts = [end - count for end, count in zip(ends, self.counts, strict=True)]
        counts = (
            max(0, min(end, last) - max(start, first))
            for start, end in zip(starts, ends, strict=True)
        )
        return TokenColumns(self.of_token[tokens], tuple(counts))


class AttentionView(Protocol):
    """Tokens of one forward pass and the keys they may see."""

    rotations: PerStream[StreamRotations]
    columns: PerStream[TokenColumns]
    sinks: int

    def slot(self, pathway: Pathway, layer: int) -> Slot | None:
        """Where this pass writes its own keys and values before they are read, if anywhere."""
        ...

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """What the queries of this pass read, given this pass's own rotated keys and values."""
        ...


def one_column(tokens: PerStream[int], device: torch.device) -> PerStream[TokenColumns]:
    """One sigma for all tokens."""
    return tokens.map(
        lambda count: TokenColumns(torch.zeros(count, dtype=torch.long, device=device), (count,))
    )


def is_across(pathway: Pathway) -> bool:
    """Whether a pathway's keys are of the other stream than its queries."""
    return QUERY_STREAM[pathway] != KEY_STREAM[pathway]


def path_table(config: ModelConfig, pathway: Pathway) -> RotaryTable:
    """The rotary table of a pathway's keys."""
    tables = video_tables(config) if KEY_STREAM[pathway] == "video" else audio_tables(config)
    return tables[0 if pathway.endswith("self") else 1]


def rotations_at(
    config: ModelConfig,
    spans_s: PerStream[list[Span]],
    grid: tuple[int, int],
    sinks: int,
    device: torch.device,
) -> PerStream[StreamRotations]:
    """Rotations of the tokens of latents that cover these times, audio sinks first."""
    video = video_spans(spans_s.video, grid, config.spatial_stride, device)
    audio = audio_spans(spans_s.audio, device)
    video_self, video_cross = video_tables(config)
    audio_self, audio_cross = audio_tables(config)
    within = audio_self.rotation(audio, sinks)
    across = within if audio_cross == audio_self else audio_cross.rotation(audio, sinks)
    return PerStream(
        StreamRotations(video_self.rotation(video), video_cross.rotation(video[:, :1])),
        StreamRotations(within, across),
    )


class BidirectionalView:
    """Everything sees everything, without sinks: the teacher, the critic and stage I."""

    def __init__(
        self,
        config: ModelConfig,
        latents: PerStream[int],
        grid: tuple[int, int],
        device: torch.device = CPU,
    ) -> None:
        self.sinks = 0
        spans = PerStream(
            [video_latent_span_s(i) for i in range(latents.video)],
            [audio_latent_span_s(i) for i in range(latents.audio)],
        )
        self.rotations = rotations_at(config, spans, grid, 0, device)
        tokens = PerStream(latents.video * grid[0] * grid[1], latents.audio)
        self.columns = one_column(tokens, device)

    def slot(self, pathway: Pathway, layer: int) -> None:
        """Nowhere: nothing is kept."""

    def read(self, pathway: Pathway, layer: int, keys: Tensor, values: Tensor) -> KeysValuesMask:
        """Everything, unmasked."""
        del pathway, layer
        return KeysValuesMask(keys, values, None)


def block_of_tokens(blocks: Sequence[int], tokens_each: int, sinks: int = 0) -> Tensor:
    """Block of every token, from the block of every latent; sinks belong to block 0."""
    latents = torch.tensor(blocks, dtype=torch.long).repeat_interleave(tokens_each)
    return torch.cat([torch.zeros(sinks, dtype=torch.long), latents])
