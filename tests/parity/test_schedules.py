"""Our sigmas are those of diffusers' scheduler, as LTX-2's pipelines set it up."""

import pytest
import torch

from omniforcing_model.flow_matching import shift_for_tokens, shifted_schedule
from tests.parity.ltx2_pipeline import SCHEDULER
from tests.parity.ltx2_reference import drawn

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-6


def their_sigmas(steps: int, shift: float, **changed: object) -> list[float]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER | changed)
    sigmas = [1 - step / steps for step in range(steps)]
    scheduler.set_timesteps(sigmas=sigmas, mu=shift)
    return [float(sigma) for sigma in scheduler.sigmas]


@pytest.mark.parametrize("steps", [4, 8, 30, 40])
def test_the_shift_of_ltx2s_own_pipelines(steps: int) -> None:
    assert shifted_schedule(steps, 2.05, 0.1) == pytest.approx(
        their_sigmas(steps, 2.05), abs=TOLERANCE
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_shift_of_a_clips_token_count(seed: int) -> None:
    from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift

    dice = torch.Generator().manual_seed(seed)
    # Beyond, diffusers loses digits: it stretches in float32, and is 1e-4 off at 25000 tokens.
    tokens, steps = drawn(1, 8192, dice), drawn(2, 100, dice)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    shift = calculate_shift(tokens, *(SCHEDULER[name] for name in names))
    assert shift_for_tokens(tokens) == pytest.approx(shift, abs=TOLERANCE)
    ours = shifted_schedule(steps, shift_for_tokens(tokens), 0.1)
    assert ours == pytest.approx(their_sigmas(steps, shift), abs=TOLERANCE)


def test_a_schedule_that_is_not_stretched() -> None:
    ours = shifted_schedule(12, 1.3, 0.0)
    assert ours == pytest.approx(their_sigmas(12, 1.3, shift_terminal=None), abs=TOLERANCE)
