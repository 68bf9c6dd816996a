"""The causal student against diffusers' class under injected block-causal masks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.streaming.rolling_cache import RollingCache
from tests.parity.ltx2_reference import PROFILES, drawn_config, features, tokens_of, twins
from tests.worlds.layouts import layout_of

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
BLOCKS = 3
GRID = (2, 2)
DROPPED = -10000.0
PASS_SIGMAS = (0.0, 0.35, 0.7)  # block 0 clean, the next ones noisy


def under_masks(reference: nn.Module, blocks: PerStream[Tensor]) -> None:
    """Let every layer of diffusers' model see keys of the same or an earlier block only."""
    rules = {
        "self_attention_mask": (blocks.video, blocks.video),
        "audio_self_attention_mask": (blocks.audio, blocks.audio),
        "a2v_cross_attention_mask": (blocks.video, blocks.audio),
        "v2a_cross_attention_mask": (blocks.audio, blocks.video),
    }
    masks = {
        name: (keys[None, :] > queries[:, None]).float()[None] * DROPPED
        for name, (queries, keys) in rules.items()
    }
    for layer in reference.transformer_blocks:  # type: ignore[union-attr]
        layer.forward = masked(layer.forward, masks)


def masked(forward: Callable[..., Any], masks: dict[str, Tensor]) -> Callable[..., Any]:
    return lambda *args, **kwargs: forward(*args, **(kwargs | masks))


class Clip:
    """A drawn model, a clip of three blocks, and diffusers' velocities under the masks."""

    def __init__(self, profile: str, kind: str, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        layout = layout_of(kind, sinks=0, window_blocks=BLOCKS)
        self.config = drawn_config(profile, self.generator, layout)
        self.ours, self.reference = twins(self.config, self.generator)
        self.layout = BlockLayout(layout)
        counts = self.layout.latents(BLOCKS)
        self.latents = PerStream(
            self.random(1, counts.video, self.config.video.latent_channels, *GRID),
            self.random(1, counts.audio, self.config.audio.latent_channels),
        )
        self.view = CausalView(self.config, counts, GRID)
        under_masks(self.reference, self.view.columns.map(lambda columns: columns.of_token))
        self.text = features(self.config, 1, 5, self.generator)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def cut(self, index: int) -> PerStream[Tensor]:
        block = self.layout.block(index)
        return self.latents.map(
            lambda x, first, count: x[:, first : first + count], block.first, block.count
        )

    @torch.no_grad()
    def their_velocity(self) -> PerStream[Tensor]:
        sigma = torch.tensor(PASS_SIGMAS)
        blocks = self.view.columns.map(lambda columns: columns.of_token)
        counts = self.layout.latents(BLOCKS)
        video, audio = self.reference(
            hidden_states=tokens_of(self.latents.video),
            audio_hidden_states=self.latents.audio,
            encoder_hidden_states=self.text.video,
            audio_encoder_hidden_states=self.text.audio,
            timestep=sigma[blocks.video][None] * 1000,
            audio_timestep=sigma[blocks.audio][None] * 1000,
            sigma=torch.zeros(1),
            num_frames=counts.video,
            height=GRID[0],
            width=GRID[1],
            fps=24.0,
            audio_num_frames=counts.audio,
            return_dict=False,
        )
        return PerStream(video, audio)

    def level(self, *sigmas: float) -> Any:
        """Sigma of every block; diffusers modulates the text of 2.3 by one sigma for the clip."""
        fixed = torch.zeros(1, 1) if self.config.modulated_text else None
        return self.ours.at_noise_level(torch.tensor([sigmas]), fixed)

    @torch.no_grad()
    def masked_velocity(self) -> PerStream[Tensor]:
        text = self.ours.read_text(self.text)
        velocity = self.ours(self.latents, self.level(*PASS_SIGMAS), text, self.view)
        return PerStream(tokens_of(velocity.video), velocity.audio)

    @torch.no_grad()
    def cached_velocity(self, rehearsed: bool) -> PerStream[Tensor]:
        """Block by block; `rehearsed` blocks go through noisy passes before the one that counts."""
        cache = RollingCache(self.config, GRID)
        text = self.ours.read_text(self.text)
        parts = []
        for index, sigma in enumerate(PASS_SIGMAS):
            view = CachedView(cache, index)
            if rehearsed:
                noise = self.cut(index).map(torch.randn_like)
                self.ours(noise, self.level(0.9), text, view)
            parts.append(self.ours(self.cut(index), self.level(sigma), text, view))
        video = torch.cat([tokens_of(part.video) for part in parts], dim=1)
        return PerStream(video, torch.cat([part.audio for part in parts], dim=1))


def assert_close(ours: PerStream[Tensor], theirs: PerStream[Tensor]) -> None:
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.std() > 0.1, "a silent reference proves nothing"
        assert (mine - reference).abs().max() <= TOLERANCE


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", ["released", "paper"])
@pytest.mark.parametrize("seed", range(2))
def test_masked_and_cached_students_equal_the_masked_reference(
    profile: str, kind: str, seed: int
) -> None:
    clip = Clip(profile, kind, seed)
    theirs = clip.their_velocity()
    assert_close(clip.masked_velocity(), theirs)
    assert_close(clip.cached_velocity(rehearsed=False), theirs)
    assert_close(clip.cached_velocity(rehearsed=True), theirs)


@pytest.mark.parametrize("kind", ["released", "paper"])
@pytest.mark.parametrize("profile", ["ltx-2.0", "ltx-2.3"])
def test_a_later_block_never_reaches_back_and_picture_reaches_sound(
    profile: str, kind: str
) -> None:
    clip = Clip(profile, kind, 7)
    before = clip.their_velocity(), clip.masked_velocity()
    first = clip.layout.block(1).first
    clip.latents.video[:, first.video :] += 1
    after = clip.their_velocity(), clip.masked_velocity()
    tokens = PerStream(first.video * GRID[0] * GRID[1], first.audio)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.video[:, : tokens.video], new.video[:, : tokens.video])
        assert torch.equal(old.audio[:, : tokens.audio], new.audio[:, : tokens.audio])
        assert not torch.equal(old.audio[:, tokens.audio :], new.audio[:, tokens.audio :])
