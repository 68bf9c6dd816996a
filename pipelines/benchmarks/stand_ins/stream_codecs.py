"""Codecs to time a stream with: the run's own, or random ones of the same latent shapes."""

from typing import NamedTuple

import torch

from actors.latents.codec_loading import load_audio_codec, load_video_codec
from infra.config import RunConfig
from infra.errors import CheckpointError, ConfigError
from omniforcing_model.codecs.audio_codec import AudioCodec
from omniforcing_model.codecs.ltx2.audio_codec import Ltx2AudioCodec
from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec, VideoDecoding
from omniforcing_model.codecs.mel import BANDS
from omniforcing_model.codecs.tiny.audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.codecs.tiny.whitened_pca import WhitenedPca
from omniforcing_model.codecs.video_codec import VideoCodec
from omniforcing_model.config import StreamConfig
from omniforcing_model.latent_clock import AUDIO_TEMPORAL_STRIDE, VIDEO_TEMPORAL_STRIDE
from pipelines.benchmarks.stand_ins.diffusers_pass import diffusers_is_installed

COLOURS = 3
LTX2_SPATIAL_STRIDE = 32


class StreamCodecs(NamedTuple):
    """Decoders of both streams, and in words what they are."""

    video: VideoCodec
    audio: AudioCodec
    what: str


def stream_codecs(config: RunConfig, device: torch.device) -> StreamCodecs:
    """The codecs that the run names, if their weights are there and fit the model.

    Else random ones: on a GPU LTX-2's, where the run is about them, because their time does not
    depend on their weights; elsewhere linear ones, which take next to no time and say so.
    """
    model = config.model
    try:
        video = load_video_codec(config.codec, str(device))
        audio = load_audio_codec(config.codec, str(device))
    except (ConfigError, CheckpointError):
        pass
    else:
        channels = (video.latent_channels, audio.latent_channels)
        if channels == (model.video.latent_channels, model.audio.latent_channels):
            return StreamCodecs(video, audio, f"{config.codec.kind}, {config.codec.video}")
    if device.type == "cuda" and config.codec.kind == "ltx2" and diffusers_is_installed():
        return random_ltx2_codecs(config, device)
    return StreamCodecs(
        TinyVideoCodec(_random_pca(model.video, _video_patch(model.spatial_stride))).to(device),
        TinyAudioCodec(_random_pca(model.audio, AUDIO_TEMPORAL_STRIDE * BANDS)).to(device),
        "linear, random",
    )


def _video_patch(spatial_stride: int) -> int:
    return VIDEO_TEMPORAL_STRIDE * COLOURS * spatial_stride**2


def _random_pca(stream: StreamConfig, width: int) -> WhitenedPca:
    basis = torch.randn(stream.latent_channels, width) / width**0.5
    return WhitenedPca(torch.zeros(width), basis, torch.ones(stream.latent_channels))


def random_ltx2_codecs(config: RunConfig, device: torch.device) -> StreamCodecs:
    """LTX-2's shapes, which are the defaults of diffusers' classes but for what is named here."""
    import diffusers  # optional, and slow to import  # noqa: PLC0415
    from diffusers.pipelines.ltx2 import LTX2Vocoder  # noqa: PLC0415

    with device:
        vae = diffusers.AutoencoderKLLTX2Video(
            decoder_causal=False,
            spatial_compression_ratio=LTX2_SPATIAL_STRIDE,
            temporal_compression_ratio=VIDEO_TEMPORAL_STRIDE,
        )
        audio_vae, vocoder = diffusers.AutoencoderKLLTX2Audio(), LTX2Vocoder()
    how = config.codec.video_decode
    dtype = torch.bfloat16 if config.codec.dtype == "bfloat16" else torch.float32
    video = Ltx2VideoCodec(vae.to(dtype), VideoDecoding(how.mode, how.left, how.right))
    audio = Ltx2AudioCodec(audio_vae, vocoder).to(device)
    return StreamCodecs(video, audio, "ltx2, random")
