"""Passes as training makes them: one call each, recomputed layer by layer or not."""

import pytest
import torch

from omniforcing_model.distillation.distribution_matching import DistributionMatchingRule
from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.distillation.stage_1_bidirectional_dmd import BidirectionalDMD
from omniforcing_model.distillation.stage_3_self_forcing import RolloutRule, SelfForcingDMD
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.errors import PrecisionError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from tests.worlds.training import latent_counts, random_model, small_run

ROWS = 2
RULE = DistributionMatchingRule((1.0, 0.8, 0.5), (0.3, 0.9), PerStream(2.0, 3.0), 0.5)
# The window of one block rolls four times, and the anchor with it.
CONFIG = small_run("model.layers=2", "model.layout.window_blocks=1", "data.seconds=5")


def batch(exit_draw):
    dice = torch.Generator().manual_seed(1)
    text = torch.randn(ROWS, 6, CONFIG.model.text_width, generator=dice)
    null = torch.zeros_like(text)
    clips = ClipShape(ROWS, latent_counts(CONFIG), (1, 1))
    return PromptBatch(PerStream(text, text), PerStream(null, null), clips, exit_draw)


def self_forcing(rule):
    return SelfForcingDMD(rule, RolloutRule(6, 6))


def gradients(stage, exit_draw, recomputes):
    roles = {name: random_model(CONFIG, n) for n, name in enumerate(("generator", "critic"))}
    roles["teacher"] = random_model(CONFIG, 2)
    models = {
        name: SharedPasses(model, TrainedTransformer(model, recomputes))
        for name, model in roles.items()
    }
    dice = torch.Generator().manual_seed(3)
    for term in stage(RULE).losses("generator", models, batch(exit_draw), dice):
        term["loss"].backward()
    return {
        name: parameter.grad
        for name, parameter in roles["generator"].named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("stage", [BidirectionalDMD, self_forcing])
@pytest.mark.parametrize("exit_draw", [0.0, 0.9])
def test_recomputed_layers_give_the_same_gradients_bit_for_bit(stage, exit_draw):
    kept, recomputed = (gradients(stage, exit_draw, recomputes) for recomputes in (False, True))
    assert kept.keys() == recomputed.keys()
    assert any(float(gradient.abs().max()) > 0 for gradient in kept.values())
    for name, gradient in kept.items():
        assert torch.equal(gradient, recomputed[name]), name


def test_passes_without_gradients_share_a_prompts_keys_and_values_and_others_make_their_own():
    model = random_model(CONFIG)
    passes = SharedPasses(model, TrainedTransformer(model))
    features = batch(0.0).text
    text = passes.read_text(features).streams.video
    made = []
    keys = model.video.layers[0].text_keys.register_forward_hook(lambda *_: made.append(1))
    modulation = model.at_noise_level(torch.ones(ROWS, 1)).modulation.video
    with torch.no_grad():
        first, again = (text.layer(0, modulation)[0][0] for _ in range(2))
    assert first is again
    assert len(made) == 1
    assert text.layer(0, modulation)[0][0].requires_grad
    assert len(made) == 2
    keys.remove()
    assert text.nbytes() > features.video.numel() * 4


def test_weights_that_learn_have_no_kept_levels():
    model = random_model(CONFIG)
    passes = SharedPasses(model, TrainedTransformer(model))
    with pytest.raises(PrecisionError, match="expected final weights"):
        passes.level_of(PerStream(1.0, 1.0))
