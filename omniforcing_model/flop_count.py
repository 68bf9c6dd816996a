"""Floating-point operations of one forward pass, counted from shapes: 2 per multiply and add.

Matrix products and attentions are counted; norms, rotations and activations are not, nor the
modulation, which is computed once per noise level. The text's keys and values are computed once
per prompt, so `text_flops` counts them apart.
"""

from typing import NamedTuple

from omniforcing_model.config import ModelConfig, StreamConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

PER_MULTIPLY_ADD = 2
PRODUCTS_PER_ATTENTION = 2  # queries by keys, weights by values


class VisibleKeys(NamedTuple):
    """Keys that one query reads, by pathway."""

    video_self: int
    audio_self: int
    audio_to_video: int
    video_to_audio: int


class PassFlops(NamedTuple):
    """Operations of one forward pass, by what they are spent on."""

    video_products: int
    audio_products: int
    video_self: int
    audio_self: int
    audio_to_video: int
    video_to_audio: int
    video_text: int
    audio_text: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def block_tokens(config: ModelConfig, index: int, grid: tuple[int, int]) -> PerStream[int]:
    """Tokens of macro-block `index` on a latent grid (height, width); block 0 holds the sinks."""
    count = BlockLayout(config.layout).block(index).count
    sinks = config.layout.sinks if index == 0 else 0
    return PerStream(count.video * grid[0] * grid[1], count.audio + sinks)


def visible_keys(
    config: ModelConfig, index: int, grid: tuple[int, int], rolling: bool = True
) -> VisibleKeys:
    """Keys that block `index` reads: pinned blocks, the window and itself, or all before it without
    `rolling`; across the streams perhaps its own block alone."""
    layout = BlockLayout(config.layout)

    def keys(across: bool) -> PerStream[int]:
        every = not rolling and not layout.sees_own_block_alone(across)
        seen = [k for k in range(index + 1) if every or layout.is_visible(k, index, across)]
        blocks = [block_tokens(config, k, grid) for k in seen]
        return PerStream(*(sum(tokens) for tokens in zip(*blocks, strict=True)))

    within, across = keys(across=False), keys(across=True)
    return VisibleKeys(within.video, within.audio, across.audio, across.video)


def pass_flops(
    config: ModelConfig,
    tokens: PerStream[int],
    keys: VisibleKeys,
    text_tokens: int,
    sinks: int = 0,
) -> PassFlops:
    """Operations of one pass over a batch of one.

    Args:
        config: of the model.
        tokens: that the pass computes, `sinks` included.
        keys: that each of them reads.
        text_tokens: of the prompt.
        sinks: audio tokens that do not come from latents.
    """
    video, audio = config.video.width, config.audio.width

    def attention(queries: int, keys: int, width: int) -> int:
        one = PER_MULTIPLY_ADD * PRODUCTS_PER_ATTENTION * queries * keys * width
        return config.layers * one

    return PassFlops(
        video_products=_products(config, config.video, tokens.video, 0),
        audio_products=_products(config, config.audio, tokens.audio, sinks),
        video_self=attention(tokens.video, keys.video_self, video),
        audio_self=attention(tokens.audio, keys.audio_self, audio),
        audio_to_video=attention(tokens.video, keys.audio_to_video, audio),
        video_to_audio=attention(tokens.audio, keys.video_to_audio, audio),
        video_text=attention(tokens.video, text_tokens, video),
        audio_text=attention(tokens.audio, text_tokens, audio),
    )


def block_flops(
    config: ModelConfig, index: int, grid: tuple[int, int], text_tokens: int, rolling: bool = True
) -> PassFlops:
    """Operations of one pass over macro-block `index` of a stream with a cache."""
    return pass_flops(
        config,
        block_tokens(config, index, grid),
        visible_keys(config, index, grid, rolling),
        text_tokens,
        config.layout.sinks if index == 0 else 0,
    )


def text_flops(config: ModelConfig, text_tokens: int) -> int:
    """Operations that a prompt takes: projections, and keys and values of every layer.

    In LTX-2.3 the keys and values are computed once per noise level, of features that are projected
    already.
    """
    widths = (config.video.width, config.audio.width)
    entry = 0 if config.modulated_text else sum(config.text_width * w + w * w for w in widths)
    per_layer = sum(2 * w * w for w in widths)
    return PER_MULTIPLY_ADD * text_tokens * (entry + config.layers * per_layer)


def _products(config: ModelConfig, stream: StreamConfig, tokens: int, sinks: int) -> int:
    """Projections of `tokens`: per layer self, text and cross-modal attention and feed-forward."""
    width, cross = stream.width, config.audio
    per_token = (4 + 2 + 8) * width**2 + 4 * width * cross.width
    if config.gated_attention:
        per_token += width * (2 * stream.heads + cross.heads)
    in_and_out = (2 * tokens - sinks) * stream.latent_channels * width
    return PER_MULTIPLY_ADD * (config.layers * tokens * per_token + in_and_out)
