import pytest
from pydantic import ValidationError

from omniforcing_model.config import StreamConfig
from omniforcing_model.macro_block import BlockLayout
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import small_model_config


def test_a_stream_is_as_wide_as_its_heads():
    assert StreamConfig(latent_channels=1, heads=3, head_dim=4).width == 12


@pytest.mark.parametrize("head_dim", [0, -2, 3])
def test_heads_have_an_even_width(head_dim):
    with pytest.raises(ValidationError):
        StreamConfig(latent_channels=1, heads=1, head_dim=head_dim)


def test_a_layout_may_have_no_sinks_but_has_a_window():
    assert layout_of(sinks=0, window_blocks=1).sinks == 0
    for wrong in ({"sinks": -1}, {"window_blocks": 0}):
        with pytest.raises(ValidationError):
            layout_of(**wrong)


def test_the_first_block_is_pinned_and_none_is_empty():
    assert layout_of(pinned_blocks=3).pinned_blocks == 3
    with pytest.raises(ValidationError):
        layout_of(pinned_blocks=0)
    with pytest.raises(ValidationError):
        layout_of(first_block={"video": 1, "audio": 0})


def test_a_window_is_full_where_all_of_its_blocks_are_behind_the_pinned_ones():
    for pinned, window in ((1, 4), (3, 3)):
        layout = layout_of(pinned_blocks=pinned, window_blocks=window)
        visible = [BlockLayout(layout).is_visible(pinned, k) for k in range(12)]
        assert visible.index(True) == pinned
        assert layout.full_from == pinned + visible.count(True) - 1


@pytest.mark.parametrize("seconds", [1, 2, 5])
def test_a_block_may_last_any_whole_seconds(seconds):
    block = {"video": 3 * seconds, "audio": 25 * seconds}
    assert layout_of(following_block=block).following_block.model_dump() == block


@pytest.mark.parametrize(
    ("video", "audio", "fit"),
    [(3, 50, "3 and 25"), (7, 50, "6 and 50"), (1, 8, "3 and 25")],
)
def test_blocks_in_which_the_streams_would_drift_apart_are_refused(video, audio, fit):
    message = f"got {video} and {audio}; write {fit}"
    with pytest.raises(ValidationError, match=message):
        layout_of(following_block={"video": video, "audio": audio})


@pytest.mark.parametrize(("architecture", "new"), [("ltx-2.0", False), ("ltx-2.3", True)])
def test_gates_and_modulated_text_come_with_2_3(architecture, new):
    config = small_model_config().model_copy(update={"architecture": architecture})
    assert config.gated_attention is new
    assert config.modulated_text is new
