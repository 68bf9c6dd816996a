"""Which row of the tables does what: LTX-2's order."""

from types import SimpleNamespace

import pytest
import torch

from omniforcing_model.kernels.operands import ScaleShift
from omniforcing_model.transformer.modulation import StreamModulation

TABLE = torch.arange(9.0)[:, None]  # row r holds r
CROSS_TABLE = 10 + torch.arange(5.0)[:, None]
LAYER = SimpleNamespace(table=TABLE, cross_table=CROSS_TABLE)
SIX = SimpleNamespace(table=TABLE[:6], cross_table=CROSS_TABLE)


def modulation(columns=1, rows=9, step=0.5):
    """Every AdaLN output is `step` times the number of its column."""
    column = step * torch.arange(columns).reshape(1, columns, 1, 1)
    return StreamModulation(
        column.expand(1, columns, rows, 1),
        column.expand(1, columns, 4, 1),
        column.expand(1, columns, 1, 1),
        column[:, :, 0],
        None,
    )


def test_scale_and_shift_are_a_product_and_a_sum():
    scale, shift = torch.tensor([[[2.0]]]), torch.tensor([[[3.0]]])
    assert ScaleShift(scale, shift)(torch.tensor([[[5.0]]])) == 13


def test_rows_are_shift_scale_gate_of_attention_feed_forward_and_text():
    rows = modulation().rows(0, LAYER, torch.zeros(1, dtype=torch.long))
    assert (rows.attention.shift, rows.attention.scale, rows.attention_gate) == (0, 2, 2)
    assert (rows.feed_forward.shift, rows.feed_forward.scale) == (3, 5)
    assert rows.feed_forward_gate == 5
    assert (rows.text.shift, rows.text.scale, rows.text_gate) == (6, 8, 8)


def test_cross_modal_rows_hold_scale_before_shift():
    rows = modulation().rows(0, LAYER, torch.zeros(1, dtype=torch.long))
    assert (rows.audio_to_video.scale, rows.audio_to_video.shift) == (11, 11)
    assert (rows.video_to_audio.scale, rows.video_to_audio.shift) == (13, 13)
    assert rows.cross_gate == 14


def test_without_text_rows_the_text_is_not_modulated():
    rows = modulation(rows=6).rows(0, SIX, torch.zeros(1, dtype=torch.long))
    assert rows.text is None
    assert rows.text_gate is None


def test_several_columns_are_spread_over_their_tokens():
    columns = torch.tensor([0, 0, 2, 1])
    level = modulation(columns=3)
    assert level.columns == 3
    gates = level.rows(0, LAYER, columns).attention_gate
    assert gates.flatten().tolist() == [2.0, 2.0, 3.0, 2.5]


def test_the_output_is_modulated_by_the_embedding_itself():
    table = torch.tensor([[7.0], [20.0]])
    output = modulation(columns=2).output(table, torch.tensor([1, 0]))
    assert output.shift.flatten().tolist() == [7.5, 7.0]
    assert output.scale.flatten().tolist() == [21.5, 21.0]


@pytest.mark.parametrize(
    ("columns", "gradients", "again"), [(1, False, True), (1, True, False), (2, False, False)]
)
def test_rows_of_one_sigma_are_computed_once_per_layer(columns, gradients, again):
    level, of_token = modulation(columns=columns), torch.zeros(1, dtype=torch.long)
    with torch.set_grad_enabled(gradients):
        rows = level.rows(3, LAYER, of_token)
        assert (level.rows(3, LAYER, of_token) is rows) is again
        assert level.rows(4, LAYER, of_token) is not rows
