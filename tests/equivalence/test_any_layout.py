"""Each value of a layout means the same in a stream, block by block, as in one masked forward."""

from typing import Any

import pytest
import torch
from torch import Tensor

from omniforcing_model.config import LayoutConfig, ModelConfig
from omniforcing_model.families import FAMILIES
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import random_small_model, small_model_config

GRID = (1, 2)
BATCH = 2
TOLERANCE = 1e-4
ROLLED = 3  # blocks after the first one whose window has left a block behind


def family_layout(name: Any) -> LayoutConfig:
    layout = FAMILIES[name].layout
    assert layout is not None
    return layout


LAYOUTS = {
    "three pinned": layout_of(sinks=2, pinned_blocks=3, window_blocks=2),
    "stays": layout_of(sinks=2, window_blocks=2, anchor="stays"),
    "three pinned stay": layout_of(pinned_blocks=3, window_blocks=1, anchor="stays"),
    "own block across": layout_of(sinks=2, window_blocks=2, cross_view="own"),
    "sigma one across": layout_of(sinks=2, window_blocks=2, cross_sigma="one"),
    "sigma one for the prompt": layout_of(sinks=2, window_blocks=2, prompt_sigma="one"),
    "first (1, 2)": layout_of(first_block={"video": 1, "audio": 2}, window_blocks=2),
    "first (3, 25)": layout_of(first_block={"video": 3, "audio": 25}, window_blocks=2),
    "two seconds": layout_of(
        sinks=2, following_block={"video": 6, "audio": 50}, pinned_blocks=2, window_blocks=1
    ),
    "echo": family_layout("echo-wm-flash"),
    "taomate": family_layout("taomate"),
    "lightx2v": family_layout("lightx2v-ar").model_copy(update={"window_blocks": 2}),
}


def model_of(layout: LayoutConfig, architecture: str) -> DualStreamTransformer:
    config = small_model_config(architecture, layers=2)
    model: DualStreamTransformer = random_small_model(config.model_copy(update={"layout": layout}))
    return model.requires_grad_(False)


def random_clip(config: ModelConfig, blocks: int) -> tuple[PerStream[Tensor], PerStream[Tensor]]:
    """Latents of `blocks` blocks, and text features."""
    generator = torch.Generator().manual_seed(1)
    counts = BlockLayout(config.layout).latents(blocks)
    latents = PerStream(
        torch.randn(BATCH, counts.video, config.video.latent_channels, *GRID, generator=generator),
        torch.randn(BATCH, counts.audio, config.audio.latent_channels, generator=generator),
    )
    widths = PerStream(config.video.width, config.audio.width)
    if not config.modulated_text:
        widths = PerStream(config.text_width, config.text_width)
    return latents, widths.map(lambda width: torch.randn(BATCH, 5, width, generator=generator))


def cut(latents: PerStream[Tensor], layout: BlockLayout, index: int) -> PerStream[Tensor]:
    block = layout.block(index)
    return latents.map(lambda x, first, n: x[:, first : first + n], block.first, block.count)


def blocks_until_rolled(layout: LayoutConfig) -> int:
    return layout.pinned_blocks + layout.window_blocks + 1 + ROLLED


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_a_stream_computes_what_one_masked_forward_does(name: str, architecture: str) -> None:
    model = model_of(LAYOUTS[name], architecture)
    layout = BlockLayout(model.config.layout)
    blocks = blocks_until_rolled(model.config.layout)
    latents, features = random_clip(model.config, blocks)
    sigma = torch.rand(BATCH, blocks, generator=torch.Generator().manual_seed(2))
    text = model.read_text(features)
    view = CausalView(model.config, layout.latents(blocks), GRID)
    whole = model(latents, sigma, text, view)
    cache = RollingCache.of(model, GRID, BATCH)
    for index in range(blocks):
        part = model(
            cut(latents, layout, index), sigma[:, index : index + 1], text, CachedView(cache, index)
        )
        for ours, masked in zip(part, cut(whole, layout, index), strict=True):
            assert masked.std() > 0.1
            assert (ours - masked).abs().max() <= TOLERANCE, f"block {index}"
