"""Each value of a layout means the same in a stream, block by block, as in one masked forward."""

from typing import Any

import pytest
import torch
from torch import Tensor

from omniforcing_model.config import LayoutConfig, ModelConfig
from omniforcing_model.errors import ShapeError
from omniforcing_model.families import FAMILIES
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.attention_view import (
    CPU,
    KEY_STREAM,
    QUERY_STREAM,
    Pathway,
    is_across,
    path_table,
    rotations_at,
)
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.text_context import TextContext
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import random_small_model, small_model_config

GRID = (1, 2)
BATCH = 2
TOLERANCE = 1e-4
SIGMAS = (1.0, 0.7, 0.3)
ROLLED = 7  # blocks from the first one on whose window has left a block behind


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
    return layout.full_from + 1 + ROLLED


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


def reference_of_given(
    model: DualStreamTransformer,
    text: TextContext,
    clip_so_far: PerStream[Tensor],
    given: PerStream[Tensor | None],
) -> PerStream[Tensor]:
    """The clip with the last block's other stream denoised, by masked forwards over all of it."""
    config, layout = model.config, BlockLayout(model.config.layout)
    counts = PerStream(clip_so_far.video.shape[1], clip_so_far.audio.shape[1])
    index = layout.blocks_of(counts) - 1
    own = layout.block(index).count
    noise = seeded_noise([5, 6])
    view = CausalView(config, counts, GRID)
    stream = "video" if given.video is None else "audio"
    clip = {name: latents.clone() for name, latents in clip_so_far.present()}
    part = slice(-getattr(own, stream), None)
    clean = clip[stream][:, part]
    for step, level in enumerate(SIGMAS):
        fresh = noise(stream, index, step, tuple(clean.shape))
        clip[stream][:, part] = level * fresh + (1 - level) * clean
        columns = {name: torch.zeros(BATCH, index + 1) for name in clip}
        columns[stream][:, -1] = level
        velocity = model(PerStream(**clip), PerStream(**columns), text, view)
        clean = clip[stream][:, part] - level * getattr(velocity, stream)[:, part]
    clip[stream][:, part] = clean
    return PerStream(**clip)


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", ["echo", "stays", "own block across"])
@torch.no_grad()
def test_a_stream_of_a_block_is_denoised_beside_the_other_that_is_given(
    name: str, stream: str, architecture: str
) -> None:
    """In the first block (a first picture), in the second, and once the window has rolled."""
    model = model_of(LAYOUTS[name], architecture)
    layout = BlockLayout(model.config.layout)
    blocks = blocks_until_rolled(model.config.layout)
    latents, features = random_clip(model.config, blocks)
    text = model.read_text(features)
    rollout = Rollout(model, text, GRID, SIGMAS, seeded_noise([5, 6]), batch=BATCH)
    history = latents.map(lambda x: x[:, :0])
    for index in range(blocks):
        block = cut(latents, layout, index)
        history = history.map(lambda past, new: torch.cat([past, new], dim=1), block)
        if index not in (0, 1, blocks - 1):
            rollout.force_block(block)
            continue
        given = PerStream(*(x if n == stream else None for n, x in block.present()))
        answer = rollout.next_block(given=given)
        history = reference_of_given(model, text, history, given)
        expected = cut(history, layout, index)
        assert torch.equal(getattr(answer, stream), getattr(block, stream))
        for ours, masked in zip(answer, expected, strict=True):
            assert (ours - masked).abs().max() <= TOLERANCE, f"block {index}"


@torch.no_grad()
def test_a_block_of_which_both_streams_are_given_is_taken_as_it_is() -> None:
    model = model_of(LAYOUTS["echo"], "ltx-2.3")
    latents, features = random_clip(model.config, 2)
    layout, text = BlockLayout(model.config.layout), model.read_text(features)
    streams = [Rollout(model, text, GRID, SIGMAS, seeded_noise([5, 6]), BATCH) for _ in "ab"]
    first = cut(latents, layout, 0)
    streams[0].force_block(first)
    assert streams[1].next_block(given=first) is not None
    one, other = (stream.next_block() for stream in streams)
    assert torch.equal(one.video, other.video)
    assert torch.equal(one.audio, other.audio)


def test_latents_of_another_block_are_refused() -> None:
    model = model_of(LAYOUTS["echo"], "ltx-2.0")
    latents, features = random_clip(model.config, 2)
    rollout = Rollout(model, model.read_text(features), GRID, SIGMAS, seeded_noise([5, 6]), BATCH)
    second = cut(latents, BlockLayout(model.config.layout), 1)
    message = r"expected video latents \(2, 1, 3, 1, 2\) for block 0, got \(2, 3, 3, 1, 2\)"
    with pytest.raises(ShapeError, match=message):
        rollout.next_block(given=PerStream(second.video, None))
    with pytest.raises(ShapeError, match=message):
        rollout.force_block(second)
    assert rollout.block_index == 0


@pytest.mark.parametrize("block", [7, 12, 60, 600])
@pytest.mark.parametrize("pathway", KEY_STREAM)
@torch.no_grad()
def test_pinned_blocks_that_follow_are_seen_as_from_the_slots_of_a_template(
    pathway: Pathway, block: int
) -> None:
    """Echo-WM's cache keeps keys unrotated and turns them by their place among the blocks it holds:
    the pinned ones, the window and the own block. Scores are those of our moved anchor."""
    config = small_model_config().model_copy(update={"layout": LAYOUTS["echo"]})
    layout = BlockLayout(config.layout)
    generator = torch.Generator().manual_seed(block)
    stream, path = KEY_STREAM[pathway], "across" if is_across(pathway) else "within"

    def turns(of: str, index: int) -> Rotation:
        spans = layout.spans_s(layout.block(index))
        turned = getattr(rotations_at(config, spans, GRID, 0, CPU), of)
        rotation: Rotation = getattr(turned, path)
        return rotation

    seen = [key for key in range(block + 1) if layout.is_visible(key, block)]
    keys = torch.randn(
        7,
        1,
        config.audio.heads,
        1,
        path_table(config, pathway).stream.head_dim,
        generator=generator,
    )
    queries = torch.randn(keys.shape[1:], generator=generator)
    ours, template = [], []
    shift = path_table(config, pathway).time_shift(layout.anchor_shift_s(block), 1, CPU)
    for slot, key in enumerate(seen):
        own = turns(stream, key)(keys[slot])
        ours.append(shift(own) if layout.is_pinned(key) else own)
        template.append(turns(stream, slot)(keys[slot]))
    asking = QUERY_STREAM[pathway]
    at_own_time, in_slot = (turns(asking, index)(queries) for index in (block, len(seen) - 1))
    mine = at_own_time @ torch.cat(ours, dim=2).transpose(-1, -2)
    theirs = in_slot @ torch.cat(template, dim=2).transpose(-1, -2)
    assert len(seen) == 7
    assert theirs.std() > 1
    assert (mine - theirs).abs().max() <= 1e-4
