"""Counted parameters are those of the model that is built."""

import pytest

from infra.presets import load_preset
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.planning.model_size import model_size
from tests.worlds.small_models import small_model_config

SHAPES = [
    (),
    ("model.layers=2", "model.text_width=48", "model.layout.sinks=3"),
    ("model.video.heads=2", "model.audio.head_dim=24", "model.video.latent_channels=5"),
]


def require_equal(config):
    model = DualStreamTransformer(config)
    size = model_size(config)
    assert size.tensors == {name: p.numel() for name, p in model.named_parameters()}
    assert size.halves == model.halves.map(lambda half: sum(p.numel() for p in half.parameters()))
    assert size.total == sum(size.tensors.values())
    layer = model.halves.map(lambda half: sum(p.numel() for p in half.layers[0].parameters()))
    assert size.layer == layer
    assert size.total - size.trained(with_sinks=False) == model.audio.sinks.tokens.numel()


@pytest.mark.parametrize("overrides", SHAPES)
def test_the_planned_parameters_are_those_of_the_model(overrides):
    require_equal(load_preset("tiny", overrides).model)


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
def test_the_gates_and_the_prompt_of_ltx_2_3_are_counted(architecture):
    require_equal(small_model_config(architecture, layers=3))


def test_the_model_of_the_paper_has_nineteen_billion_parameters_and_ltx_2_3_a_tenth_more():
    paper = load_preset("paper").model
    newer = paper.model_copy(update={"architecture": "ltx-2.3", "text_width": 4096})
    assert model_size(paper).total == 18_876_207_360
    assert 18.9e9 < model_size(newer).total < 19.1e9
