"""Streams longer than the clips: what is scored of them, and which blocks carry gradients."""

import pytest
import torch

from omniforcing_model.distillation.distribution_matching import DistributionMatchingRule
from omniforcing_model.distillation.latent_batch import PromptBatch
from omniforcing_model.distillation.stage_3_self_forcing import RolloutRule, SelfForcingDMD
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.streaming.rollout import Rollout, roll_out
from tests.worlds.training import latent_counts, random_model, small_run

ROWS = 2
SIGMAS = (1.0, 0.6)
RULE = DistributionMatchingRule(SIGMAS, (0.5,), PerStream(2.0, 2.0), 0.5)
# Clips of two seconds, a window of one block; streams of seven blocks.
CONFIG = small_run("model.layout.window_blocks=1", "data.seconds=2")
BLOCKS = 7


def batch(length_draw=0.0):
    dice = torch.Generator().manual_seed(1)
    text = torch.randn(ROWS, 6, CONFIG.model.text_width, generator=dice)
    clips = ClipShape(ROWS, latent_counts(CONFIG), (1, 1))
    return PromptBatch(PerStream(text, text), PerStream(text, text), clips, 0.9, length_draw)


def passes_of(model):
    return SharedPasses(model, TrainedTransformer(model))


def streamed(model):
    """The whole stream, with the graph of every block's last pass."""
    rollout = Rollout(
        model, model.read_text(batch().text), (1, 1), SIGMAS, generator_noise(dice()), ROWS
    )
    return roll_out(rollout, BLOCKS, exit_step=1)


def dice():
    return torch.Generator().manual_seed(3)


def test_lengths_are_drawn_from_the_least_to_the_most_and_all_come():
    rule = RolloutRule(3, 6)
    assert {rule.blocks(draw / 100) for draw in range(100)} == {3, 4, 5, 6}
    assert rule.blocks(0.0) == 3
    assert RolloutRule(4, 4).blocks(0.999) == 4


def test_the_last_latents_of_a_stream_as_many_as_a_clip_has_are_its_samples():
    model = random_model(CONFIG)
    stage = SelfForcingDMD(RULE, RolloutRule(BLOCKS, BLOCKS))
    with torch.no_grad():
        whole = streamed(model)
        samples = stage.generate(passes_of(model), batch(), dice())
    parts = stage.generate_parts(passes_of(model), batch(), dice())
    counts = latent_counts(CONFIG)
    for name, count in counts.present():
        last = getattr(whole, name)[:, -count:]
        torch.testing.assert_close(getattr(samples, name), last)
        torch.testing.assert_close(getattr(parts.clean, name), last)


@pytest.mark.parametrize("gradient_blocks", [None, 2, 1])
def test_gradients_are_those_of_the_graphs_of_the_blocks_that_carry_them(gradient_blocks):
    plain, trained = random_model(CONFIG), random_model(CONFIG)
    stage = SelfForcingDMD(RULE, RolloutRule(BLOCKS, BLOCKS, gradient_blocks))
    samples = stage.generate_parts(passes_of(trained), batch(), dice())
    weights = [torch.randn(x.shape, generator=dice()) for x in samples.clean]
    covered = [torch.zeros_like(weight) for weight in weights]
    for latents, start in samples.parts():
        total = torch.zeros(())
        for x, weight, own, at in zip(latents, weights, covered, start, strict=True):
            own[:, at : at + x.shape[1]] += 1
            total = total + (x * weight[:, at : at + x.shape[1]]).sum()
        total.backward()
    counts = latent_counts(CONFIG)
    each = PerStream(3, 25)
    for own, count, block in zip(covered, counts, each, strict=True):
        with_gradients = count if gradient_blocks is None else gradient_blocks * block
        assert own[:, -with_gradients:].eq(1).all()
        assert not own[:, :-with_gradients].any() or with_gradients == count
    last = streamed(plain).map(lambda x, count: x[:, -count:], counts)
    whole = sum(
        (x * weight * own).sum() for x, weight, own in zip(last, weights, covered, strict=True)
    )
    whole.backward()
    for (name, one), other in zip(plain.named_parameters(), trained.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            assert one.grad is None or not one.grad.any(), name
            continue
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)
