"""Cached, block-by-block generation computes what one masked forward over the clip computes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import LayoutConfig, ModelConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.layouts import layout_of

GRID = (2, 2)
BLOCKS = 5


def small_config(layout: LayoutConfig, pairs: str = "split") -> ModelConfig:
    model = load_preset("tiny").model
    rotary = model.rotary.model_copy(update={"pairs": pairs})
    return model.model_copy(update={"layers": 2, "layout": layout, "rotary": rotary})


def randomised(config: ModelConfig) -> DualStreamTransformer:
    torch.manual_seed(0)
    model = DualStreamTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def random_clip(config: ModelConfig) -> tuple[PerStream[Tensor], PerStream[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    counts = BlockLayout(config.layout).latents(BLOCKS)
    latents = PerStream(
        torch.randn(2, counts.video, config.video.latent_channels, *GRID, generator=generator),
        torch.randn(2, counts.audio, config.audio.latent_channels, generator=generator),
    )
    text = torch.randn(2, 8, config.text_width, generator=generator)
    return latents, PerStream(text, text)


def cut(latents: PerStream[Tensor], layout: BlockLayout, index: int) -> PerStream[Tensor]:
    block = layout.block(index)
    return latents.map(lambda x, first, n: x[:, first : first + n], block.first, block.count)


@torch.no_grad()
def streamed(
    model: DualStreamTransformer, latents: PerStream[Tensor], sigma: Tensor, text: PerStream[Tensor]
) -> Iterator[PerStream[Tensor]]:
    layout = BlockLayout(model.config.layout)
    cache = RollingCache(model.config, GRID, rows=2)
    context = model.read_text(text)
    for index in range(BLOCKS):
        block = cut(latents, layout, index)
        yield model(block, sigma[:, index : index + 1], context, CachedView(cache, index))


def masked(
    model: DualStreamTransformer, latents: PerStream[Tensor], sigma: Tensor, text: PerStream[Tensor]
) -> PerStream[Tensor]:
    counts = PerStream(latents.video.shape[1], latents.audio.shape[1])
    view = CausalView(model.config, counts, GRID)
    with torch.no_grad():
        velocity: PerStream[Tensor] = model(latents, sigma, model.read_text(text), view)
    return velocity


@pytest.mark.parametrize("kind", ["paper", "released"])
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("pairs", ["split", "interleaved"])
def test_cached_blocks_equal_one_masked_forward(
    kind: str, sinks: int, window: int, pairs: str
) -> None:
    layout = layout_of(kind, sinks=sinks, window_blocks=window)
    model = randomised(small_config(layout, pairs))
    latents, text = random_clip(model.config)
    sigma = torch.rand(2, BLOCKS, generator=torch.Generator().manual_seed(2))
    whole = masked(model, latents, sigma, text)
    parts = list(streamed(model, latents, sigma, text))
    for stream in range(2):
        joined = torch.cat([part[stream] for part in parts], dim=1)
        assert whole[stream].std() > 0.1
        assert (joined - whole[stream]).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["paper", "released"])
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_the_future_never_changes_the_past_and_the_past_changes_both_streams(
    kind: str, stream: str
) -> None:
    layout = layout_of(kind, sinks=2, window_blocks=2)
    model = randomised(small_config(layout))
    latents, text = random_clip(model.config)
    blocks = BlockLayout(layout)
    sigma = torch.full((2, BLOCKS), 0.5)
    before = masked(model, latents, sigma, text)
    for changed in range(BLOCKS):
        block = blocks.block(changed)
        disturbed = PerStream(latents.video.clone(), latents.audio.clone())
        target = disturbed.video if stream == "video" else disturbed.audio
        first = getattr(block.first, stream)
        target[:, first : first + getattr(block.count, stream)] += 1
        after = masked(model, disturbed, sigma, text)
        for index in range(BLOCKS):
            old, new = cut(before, blocks, index), cut(after, blocks, index)
            for which in range(2):
                same = torch.equal(old[which], new[which])
                if index < changed:
                    assert same, f"block {changed} of {stream} reached back to block {index}"
                elif blocks.is_visible(changed, index):
                    assert not same, f"block {changed} of {stream} is not heard in block {index}"
