"""Our transformer computes what diffusers' LTX-2 class computes with the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import BidirectionalView, TokenColumns
from omniforcing_model.transformer.perturbation import Perturbation
from tests.parity.ltx2_reference import (
    PROFILES,
    TEXT_TOKENS,
    drawn,
    drawn_config,
    features,
    tokens_of,
    twins,
)

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
SEEDS = range(5)
BATCH = 2


class PerTokenView(BidirectionalView):
    """Every token has a sigma of its own: video tokens first, then audio tokens."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        video, audio = (sum(columns.counts) for columns in self.columns)
        self.columns = PerStream(
            TokenColumns(torch.arange(video), (1,) * video + (0,) * audio),
            TokenColumns(torch.arange(video, video + audio), (0,) * video + (1,) * audio),
        )


class Case:
    """One drawn model with its twin, inputs and both answers."""

    def __init__(self, profile: str, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.config = drawn_config(profile, self.generator)
        self.ours, self.reference = twins(self.config, self.generator)
        self.latents = PerStream(drawn(1, 5, self.generator), drawn(1, 30, self.generator))
        self.grid = (drawn(1, 4, self.generator), drawn(1, 4, self.generator))
        self.video = self.random(
            BATCH, self.latents.video, self.config.video.latent_channels, *self.grid
        )
        self.audio = self.random(BATCH, self.latents.audio, self.config.audio.latent_channels)
        self.text = features(
            self.config, BATCH, drawn(*TEXT_TOKENS, self.generator), self.generator
        )

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def sigmas(self, columns: int) -> Tensor:
        return torch.rand(BATCH, columns, generator=self.generator) * 0.95 + 0.05

    @torch.no_grad()
    def their_velocity(self, **changed: Any) -> PerStream[Tensor]:
        """Diffusers' answer; a timestep is 1000 sigma."""
        video, audio = self.reference(
            hidden_states=tokens_of(self.video),
            audio_hidden_states=self.audio,
            encoder_hidden_states=self.text.video,
            audio_encoder_hidden_states=self.text.audio,
            num_frames=self.latents.video,
            height=self.grid[0],
            width=self.grid[1],
            fps=24.0,
            audio_num_frames=self.latents.audio,
            return_dict=False,
            **changed,
        )
        return PerStream(video, audio)

    @torch.no_grad()
    def our_velocity(
        self,
        sigma: Tensor,
        text_sigma: Tensor | None = None,
        perturbation: Perturbation | None = None,
        view: type[BidirectionalView] = BidirectionalView,
    ) -> PerStream[Tensor]:
        velocity = self.ours(
            PerStream(self.video, self.audio),
            self.ours.at_noise_level(sigma, text_sigma),
            self.ours.read_text(self.text),
            view(self.config, self.latents, self.grid),
            perturbation or Perturbation(),
        )
        return PerStream(tokens_of(velocity.video), velocity.audio)


def assert_equal(ours: PerStream[Tensor], theirs: PerStream[Tensor]) -> None:
    for name, mine in ours.present():
        reference = getattr(theirs, name)
        assert reference.std() > 0.1, "a silent reference proves nothing"
        assert (mine - reference).abs().max() <= TOLERANCE


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_sigma_for_the_clip(profile: str, seed: int) -> None:
    case = Case(profile, seed)
    sigma = case.sigmas(1)
    scalar = sigma[:, 0] * 1000
    for cross in (False, True):  # whose sigma modulates does not matter where there is one
        theirs = case.their_velocity(
            timestep=scalar, sigma=scalar, audio_sigma=scalar, use_cross_timestep=cross
        )
        assert_equal(case.our_velocity(sigma), theirs)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sigma_for_every_token(profile: str, seed: int) -> None:
    case = Case(profile, seed)
    tokens = case.latents.video * case.grid[0] * case.grid[1]
    sigma, prompt_sigma = case.sigmas(tokens + case.latents.audio), case.sigmas(1)
    theirs = case.their_velocity(
        timestep=sigma[:, :tokens] * 1000,
        audio_timestep=sigma[:, tokens:] * 1000,
        sigma=prompt_sigma[:, 0] * 1000,
    )
    text_sigma = prompt_sigma if case.config.modulated_text else None
    assert_equal(case.our_velocity(sigma, text_sigma, view=PerTokenView), theirs)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_isolated_streams(profile: str, seed: int) -> None:
    case = Case(profile, seed)
    sigma = case.sigmas(1)
    scalar = sigma[:, 0] * 1000
    theirs = case.their_velocity(timestep=scalar, sigma=scalar, isolate_modalities=True)
    assert_equal(case.our_velocity(sigma, perturbation=Perturbation(isolate=True)), theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_self_attention_that_passes_its_values_on(seed: int) -> None:
    """Spatio-temporal guidance as LTX-2.3 defines it."""
    case = Case("ltx-2.3", seed)
    sigma = case.sigmas(1)
    scalar = sigma[:, 0] * 1000
    weak = case.config.layers - 1
    theirs = case.their_velocity(
        timestep=scalar, sigma=scalar, spatio_temporal_guidance_blocks=[weak]
    )
    perturbation = Perturbation(frozenset({weak}), "values")
    assert_equal(case.our_velocity(sigma, perturbation=perturbation), theirs)


@pytest.mark.parametrize("profile", PROFILES)
def test_self_attention_left_out(profile: str) -> None:
    """Spatio-temporal guidance as LTX-2.0 defines it: the branch contributes nothing."""
    case = Case(profile, 0)
    sigma = case.sigmas(1)
    weak = case.config.layers - 1
    block = case.reference.transformer_blocks[weak]  # type: ignore[union-attr,index]
    for attention in (block.attn1, block.audio_attn1):  # type: ignore[union-attr]
        attention.to_out[0].weight.data.zero_()  # type: ignore[index,union-attr]
        attention.to_out[0].bias.data.zero_()  # type: ignore[index,union-attr]
    scalar = sigma[:, 0] * 1000
    theirs = case.their_velocity(timestep=scalar, sigma=scalar)
    perturbation = Perturbation(frozenset({weak}), "drop")
    assert_equal(case.our_velocity(sigma, perturbation=perturbation), theirs)
