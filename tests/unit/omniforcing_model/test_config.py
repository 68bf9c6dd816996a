import pytest
from pydantic import ValidationError

from omniforcing_model.config import LayoutConfig, StreamConfig
from tests.worlds.small_models import small_model_config


def test_a_stream_is_as_wide_as_its_heads():
    assert StreamConfig(latent_channels=1, heads=3, head_dim=4).width == 12


@pytest.mark.parametrize("head_dim", [0, -2, 3])
def test_heads_have_an_even_width(head_dim):
    with pytest.raises(ValidationError):
        StreamConfig(latent_channels=1, heads=1, head_dim=head_dim)


def test_a_layout_may_have_no_sinks_but_has_a_window():
    assert LayoutConfig(kind="paper", sinks=0, window_blocks=1).sinks == 0
    for sinks, window in ((-1, 1), (0, 0)):
        with pytest.raises(ValidationError):
            LayoutConfig(kind="paper", sinks=sinks, window_blocks=window)


@pytest.mark.parametrize(("architecture", "new"), [("ltx-2.0", False), ("ltx-2.3", True)])
def test_gates_and_modulated_text_come_with_2_3(architecture, new):
    config = small_model_config().model_copy(update={"architecture": architecture})
    assert config.gated_attention is new
    assert config.modulated_text is new
