"""Operations counted from shapes are those that PyTorch counts, and those of LTX-2 19B."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infra.presets import load_preset
from infra.presets.overrides import apply_overrides
from omniforcing_model.config import ModelConfig
from omniforcing_model.flop_count import (
    VisibleKeys,
    block_flops,
    pass_flops,
    text_flops,
)
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

GRID = (2, 3)
TEXT_TOKENS = 5
SHAPES = [
    (),
    ("model.layers=2", "model.video.heads=2", "model.audio.head_dim=24", "model.layout.sinks=3"),
    ("model.layers=1", "model.layout.first_block={video: 4, audio: 26}", "model.layout.sinks=0"),
    ("model.layers=2", "model.architecture=ltx-2.3", "model.text_width=128"),
    ("model.layers=1", "model.layout.pinned_blocks=2", "model.layout.cross_view=own"),
]


def counted() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def model_of(overrides: tuple[str, ...]) -> DualStreamTransformer:
    values = {"model": load_preset("tiny").model.model_dump()}
    config = ModelConfig.model_validate(apply_overrides(values, overrides)["model"])
    return DualStreamTransformer(config).requires_grad_(False)


@pytest.mark.parametrize("overrides", SHAPES)
@torch.no_grad()
def test_every_block_of_a_stream_costs_what_pytorch_counts(overrides: tuple[str, ...]) -> None:
    model = model_of(overrides)
    config = model.config
    # From LTX-2.3 on text comes in each stream's own width.
    widths = PerStream(config.video.width, config.audio.width)
    if not config.modulated_text:
        widths = PerStream(config.text_width, config.text_width)
    with sdpa_kernel(SDPBackend.MATH), counted() as reading:
        text = model.read_text(widths.map(lambda width: torch.zeros(1, TEXT_TOKENS, width)))
    level = model.at_noise_level(torch.zeros(1, 1))
    cache = RollingCache(config, GRID)
    passes = []
    for index in range(config.layout.pinned_blocks + config.layout.window_blocks + 3):
        count = BlockLayout(config.layout).block(index).count
        latents = PerStream(
            torch.zeros(1, count.video, config.video.latent_channels, *GRID),
            torch.zeros(1, count.audio, config.audio.latent_channels),
        )
        with sdpa_kernel(SDPBackend.MATH), counted() as computing:
            model(latents, level, text, CachedView(cache, index))
        passes.append(computing.get_total_flops())
    expected = [block_flops(config, k, GRID, TEXT_TOKENS).total for k in range(len(passes))]
    # LTX-2.3's text keys wait for the first pass at a noise level.
    late = text_flops(config, TEXT_TOKENS) if config.modulated_text else 0
    expected[0] += late
    assert passes == expected
    assert reading.get_total_flops() == text_flops(config, TEXT_TOKENS) - late


# Worked out by hand from LTX-2's shapes: 384 tokens a frame at 512x768, and so on.
@pytest.mark.parametrize(
    ("tokens_per_frame", "frames", "visible_frames", "expected"),
    [
        (384, 3, 3, 31.9),
        (384, 3, 7, 33.3),
        (384, 3, 21, 38.3),
        (384, 3, 61, 52.5),
        (384, 4, 4, 42.9),
        (836, 3, 16, 93.5),
        (2040, 3, 10, 261.4),
    ],
)
def test_a_pass_of_the_19b_model_costs_what_its_shapes_say(
    tokens_per_frame: int, frames: int, visible_frames: int, expected: float
) -> None:
    audio = {3: 25, 4: 26}[frames]
    audio_keys = round(visible_frames * 25 / 3)
    video_keys = visible_frames * tokens_per_frame
    flops = pass_flops(
        load_preset("paper").model,
        PerStream(frames * tokens_per_frame, audio),
        VisibleKeys(video_keys, audio_keys, audio_keys, video_keys),
        text_tokens=1024,
    )
    assert flops.total / 1e12 == pytest.approx(expected, abs=0.11)
