"""The four-way mask of the paper's figure 3."""

import torch

from infra.presets import load_preset
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.transformer.attention_view import Pathway

GRID = (1, 2)
THREE_BLOCKS = PerStream(7, 51)


def visible(
    pathway: Pathway, window: int = 9, latents: PerStream[int] = THREE_BLOCKS
) -> torch.Tensor:
    model = load_preset("tiny").model
    layout = model.layout.model_copy(update={"sinks": 2, "window_blocks": window})
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
