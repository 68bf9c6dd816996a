"""The four-way mask of the paper's figure 3."""

from typing import Any

import torch

from infra.presets import load_preset
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.transformer.attention_view import Pathway
from tests.worlds.layouts import layout_of

GRID = (1, 2)
THREE_BLOCKS = PerStream(7, 51)


def visible(
    pathway: Pathway,
    window: int = 9,
    latents: PerStream[int] = THREE_BLOCKS,
    **values: Any,
) -> torch.Tensor:
    model = load_preset("tiny").model
    layout = layout_of(sinks=2, window_blocks=window, **values)
    view = CausalView(model.model_copy(update={"layout": layout}), latents, GRID)
    of_video = pathway in ("video_self", "video_to_audio")
    tokens = latents.video * 2 if of_video else 2 + latents.audio
    stream = model.video if pathway == "video_self" else model.audio
    keys = torch.zeros(1, stream.heads, tokens, stream.head_dim)
    mask = view.read(pathway, 0, keys, keys).mask
    assert mask is not None
    return mask


def test_a_block_is_bidirectional_inside_and_causal_outside() -> None:
    mask = visible("video_self")
    assert mask[2:8, 2:8].all()
    assert mask[2:8, :2].all()
    assert not mask[2:8, 8:].any()


def test_sinks_and_prefix_are_seen_by_every_query_of_both_streams() -> None:
    assert visible("audio_self")[:, :3].all()
    assert visible("audio_to_video")[:, :3].all()
    assert visible("video_to_audio")[:, :2].all()


def test_sinks_see_only_the_prefix() -> None:
    assert visible("audio_self")[:2].sum(dim=1).tolist() == [3, 3]
    assert visible("video_to_audio")[:2].sum(dim=1).tolist() == [2, 2]


def test_both_streams_open_at_the_same_second() -> None:
    hears = visible("audio_to_video")
    assert hears[2:8, : 3 + 25].all()
    assert not hears[2:8, 3 + 25 :].any()
    sees = visible("video_to_audio")
    assert sees[3 : 3 + 25, :8].all()
    assert not sees[3 : 3 + 25, 8:].any()


def test_once_the_window_has_rolled_block_0_is_read_from_a_copy_of_its_own() -> None:
    # Blocks 0 to 3 of 2, 6, 6 and 6 tokens; the copy of block 0 stands behind them.
    mask = visible("video_self", window=1, latents=PerStream(10, 76))
    assert mask.shape == (20, 22)
    assert mask[8:14].sum(dim=0).tolist() == [6] * 14 + [0] * 8
    assert mask[14:].sum(dim=0).tolist() == [0] * 8 + [6] * 14


def test_several_pinned_blocks_are_copied_together_once_per_distance() -> None:
    # Blocks 0 to 5 of 2 tokens and then 6; blocks 4 and 5 see 0 and 1 one and two seconds on.
    mask = visible("video_self", window=1, latents=PerStream(16, 126), pinned_blocks=2)
    assert mask.shape == (32, 32 + 2 * 8)
    own_time, one_second, two_seconds = mask[:, :8], mask[:, 32:40], mask[:, 40:]
    assert own_time.any(dim=1).tolist() == [True] * 20 + [False] * 12
    assert own_time[2:20].all()
    assert own_time[:2].sum(dim=1).tolist() == [2, 2]
    for copy, block in ((one_second, slice(20, 26)), (two_seconds, slice(26, 32))):
        assert copy[block].all()
        assert copy.sum() == 6 * 8
    assert mask[26:, 8:32].sum(dim=1).tolist() == [12] * 6


def test_an_anchor_that_stays_needs_no_copy() -> None:
    mask = visible("video_self", window=1, latents=PerStream(10, 76), anchor="stays")
    assert mask.shape == (20, 20)
    assert mask[14:, :2].all()
    assert not mask[14:, 2:8].any()


def test_a_cross_view_of_the_own_block_hides_history_and_prefix() -> None:
    hears = visible("audio_to_video", cross_view="own")
    assert hears.shape == (14, 2 + 51)
    assert hears[2:8].sum(dim=0).tolist() == [0] * 3 + [6] * 25 + [0] * 25
    assert hears[:2].sum(dim=0).tolist() == [2] * 3 + [0] * 50
    rolled = visible("video_to_audio", 1, PerStream(10, 76), cross_view="own")
    assert rolled.shape == (2 + 76, 20)
    assert rolled[-25:].sum(dim=0).tolist() == [0] * 14 + [25] * 6
    assert visible("video_self", cross_view="own").equal(visible("video_self"))
