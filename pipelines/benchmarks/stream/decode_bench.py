"""What streaming LTX-2's video decoder costs in fidelity: over context, and over what is held back.

With the run's weights a rendered clip is encoded and decoded again. Without, the layers of the
release are there and their channels few, on random weights and latents: how far a decoder sees
depends on its layers; how much that matters depends on weights, so these figures are a bound to
compare settings by, not LTX-2's own.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actors.latents.codec_loading import load_video_codec
from infra.config import RunConfig
from infra.errors import ConfigError
from infra.records import Record
from omniforcing_model.beacons.world import Beacon, render_frames
from omniforcing_model.codecs.ltx2.single_file import VIDEO_RELEASES
from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec
from omniforcing_model.codecs.pixels import from_pixels
from omniforcing_model.config import ModelConfig
from omniforcing_model.latent_clock import frames_for_seconds, video_latents
from pipelines.benchmarks.stand_ins.diffusers_pass import diffusers_is_installed
from pipelines.benchmarks.stream.decode_context import LEFTS, RIGHTS, decode_context_errors

# Latents in height and width: the context in question is that in time.
SIDE = 4
NARROWER = 16
LATENT_CHANNELS = 8
SEED = 0
CLIP = Beacon("red", 2, "high", phase_frames=3)


class ContextError(Record):
    """A stream against the whole clip, as `DecodeContextError`; None for frames that are equal."""

    left: int | None
    right: int
    relative_error: float
    psnr_db: float | None


class DecodeBench(Record):
    """Errors over `left` latents decoded again (None: state carried over) and `right` held back.

    `codec` and `latents` say in words what was decoded.
    """

    config: str
    device: str
    threads: int
    seconds: int
    codec: str
    latents: str
    errors: tuple[ContextError, ...]


class Subject(NamedTuple):
    """A codec and a clip's latents (1, n, channels, h, w), and in words what they are."""

    codec: Ltx2VideoCodec
    latents: Tensor
    what: str
    what_latents: str


def decode_settings() -> int:
    """How many settings `bench_decode` measures."""
    return len(LEFTS) * len(RIGHTS)


def bench_decode(
    config: RunConfig, seconds: int, device: torch.device, advance: Callable[[], None]
) -> DecodeBench:
    """Measure every setting on a clip of `seconds`; `advance` is called after each.

    ConfigError without diffusers.
    """
    subject = decode_subject(config, seconds, device)
    errors = decode_context_errors(subject.codec, subject.latents, advance=advance)
    return DecodeBench(
        config=config.name,
        device=str(device),
        threads=torch.get_num_threads(),
        seconds=seconds,
        codec=subject.what,
        latents=subject.what_latents,
        errors=tuple(
            ContextError(
                left=error.left,
                right=error.right,
                relative_error=error.relative_error,
                psnr_db=error.psnr_db if error.relative_error else None,
            )
            for error in errors
        ),
    )


def decode_subject(config: RunConfig, seconds: int, device: torch.device) -> Subject:
    """The run's video codec with a rendered clip, or a narrow random one with random latents."""
    if not diffusers_is_installed():
        raise ConfigError(
            "expected diffusers for bench decode, got an installation without; install"
            " omniforcing-on-ray[ltx2]"
        )
    frames = frames_for_seconds(seconds)
    if config.codec.kind == "ltx2":
        try:
            codec = load_video_codec(config.codec, str(device))
        except ConfigError:
            pass
        else:
            assert isinstance(codec, Ltx2VideoCodec), "codec.kind is ltx2"
            latents = codec.encode(_beacon_clip(frames, SIDE * codec.spatial_stride))
            return Subject(codec, latents, f"ltx2, {config.codec.video}", "a rendered clip")
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        codec = Ltx2VideoCodec(_narrow_vae(config.model).to(device))
        latents = torch.randn(1, video_latents(frames), LATENT_CHANNELS, SIDE, SIDE)
    what = f"random, the layers of {config.model.architecture}, 1/{NARROWER} of its channels"
    return Subject(codec, latents.to(device), f"{what}, seed {SEED}", "random")


def _beacon_clip(frames: int, size: int) -> Tensor:
    """A clip (1, frames, 3, size, size) in [-1, 1]."""
    return from_pixels(torch.from_numpy(render_frames(CLIP, frames, size))[None])


def _narrow_vae(model: ModelConfig) -> Any:
    from diffusers import AutoencoderKLLTX2Video  # optional, and slow to import  # noqa: PLC0415

    usual = {
        name: parameter.default
        for name, parameter in signature(AutoencoderKLLTX2Video.__init__).parameters.items()
    }
    config = dict(VIDEO_RELEASES[model.architecture].config)
    for name in ("block_out_channels", "decoder_block_out_channels"):
        wide = config.get(name, usual[name])
        config[name] = tuple(channels // NARROWER for channels in wide)
    return AutoencoderKLLTX2Video(**config | {"latent_channels": LATENT_CHANNELS})
