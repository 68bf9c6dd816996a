"""Our guided prediction is that of diffusers' LTX-2 pipeline, term by term."""

import pytest
import torch

from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales, guide
from tests.parity.ltx2_pipeline import PipelineCase, Settings
from tests.parity.ltx2_reference import PROFILES

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
SEEDS = range(4)
NEUTRAL = GuidanceScales()
TERMS = {
    "cfg": PerStream(GuidanceScales(cfg=3), GuidanceScales(cfg=7)),
    "cfg of the video alone": PerStream(GuidanceScales(cfg=3), NEUTRAL),
    "stg": PerStream(GuidanceScales(stg=1), GuidanceScales(stg=2)),
    "stg of the audio alone": PerStream(NEUTRAL, GuidanceScales(stg=1)),
    "modality": PerStream(GuidanceScales(modality=3), GuidanceScales(modality=2)),
    "rescale": PerStream(GuidanceScales(cfg=3, rescale=0.45), GuidanceScales(cfg=7, rescale=1)),
    "LTX-2's own": PerStream(GuidanceScales(3, 1, 3, 0.7), GuidanceScales(7, 1, 3, 0.7)),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_to_sigma_0_ends_at_the_same_guided_prediction(profile: str, seed: int) -> None:
    # In float64 the two transformers agree so well that what is left is the guidance's own error.
    case = PipelineCase(profile, seed, batch=1 + seed % 2, dtype=torch.float64)
    case.pipeline.scheduler.register_to_config(shift_terminal=None)
    step = {"sigmas": [0.4], "num_inference_steps": 1}
    plain = case.theirs(Settings(PerStream(NEUTRAL, NEUTRAL)), **step)
    sigmas = case.pipeline.scheduler.sigmas.tolist()
    for name, scales in TERMS.items():
        settings = Settings(scales, (case.weak_layer,))
        theirs, ours = case.theirs(settings, **step), case.mine(settings, sigmas)
        for stream, mine in ours.present():
            reference, unguided = getattr(theirs, stream), getattr(plain, stream)
            guided = getattr(scales, stream) != NEUTRAL
            assert ((reference - unguided).abs().max() > 0.01) == guided, (
                f"{name} shows in {stream}"
            )
            assert (mine - reference).abs().max() <= TOLERANCE, f"{name}, {stream}"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_deviation_is_drawn_back_clip_by_clip(seed: int) -> None:
    from diffusers.pipelines.ltx2.pipeline_ltx2 import rescale_noise_cfg

    dice = torch.Generator().manual_seed(seed)
    clips = torch.randn(3, 4, 5, generator=dice) * torch.tensor([1.0, 0.3, 0.1])[:, None, None]
    share = float(torch.rand((), generator=dice))
    for clip in (clips, 2 * clips + 1):
        far = 2 * clip + torch.randn(clip.shape, generator=dice)
        theirs = rescale_noise_cfg(far, clip, guidance_rescale=share)
        push = PerStream(2 * clip - far, None), PerStream(1.0, None)  # c + (c - weaker) = far
        ours = guide(PerStream(clip, None), [push], PerStream(share, None))  # type: ignore[list-item]
        assert (ours.video - theirs).abs().max() <= TOLERANCE
