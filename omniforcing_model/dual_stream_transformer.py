"""The dual-stream transformer: the student under a causal view, the teacher without one.

LTX-2's structure (facts 1) with video and audio parameters in separate modules that meet once per
layer (exchange.py).
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omniforcing_model.attention_view import AttentionView
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import ShapeError
from omniforcing_model.exchange import Exchange, drive_together
from omniforcing_model.modality_stream import AudioStream, TextKeys, VideoStream
from omniforcing_model.per_stream import STREAMS, PerStream


class TextContext(NamedTuple):
    """Text keys and values of both streams, computed once per prompt."""

    keys: PerStream[TextKeys]


class DualStreamTransformer(nn.Module):
    """Velocity of noisy video and audio latents at sigma, under a view.

    A replica that holds one half names it in `halves` and gives the `exchange` that reaches the
    other; its PerStreams carry None in the other place.
    """

    def __init__(
        self,
        config: ModelConfig,
        exchange: Exchange | None = None,
        halves: Collection[str] = STREAMS,
    ) -> None:
        super().__init__()
        self.config = config
        self.exchange = exchange
        self.video = VideoStream(config) if "video" in halves else None
        self.audio = AudioStream(config) if "audio" in halves else None
        # The zero start lets a fresh model predict velocity 0 instead of noise.
        for half in (self.video, self.audio):
            if half is not None:
                nn.init.zeros_(half.proj_out.weight)
                nn.init.zeros_(half.proj_out.bias)

    @property
    def halves(self) -> PerStream[VideoStream | AudioStream | None]:
        """The streams this process holds, None in the place of one it does not."""
        return PerStream(self.video, self.audio)

    def read_text(self, text: PerStream[Tensor]) -> TextContext:
        """Text keys and values from features (batch, text tokens, text_width) per stream."""
        keys = self.halves.map(lambda half, features: half.read_text(features), text)
        return TextContext(keys)

    def forward(
        self, latents: PerStream[Tensor], sigma: Tensor, text: TextContext, view: AttentionView
    ) -> PerStream[Tensor]:
        """Velocities in the shapes of `latents`.

        Args:
            latents: video (batch, frames, channels, height, width), audio (batch, frames,
                channels).
            sigma: noise level in [0, 1], (batch, 1), or (batch, blocks) under a causal view.
            text: of `read_text`.
            view: where the tokens stand and what they see.
        """
        for name, value in latents.present():
            self._check(name, value)
        video, audio = self.halves
        keys = text.keys
        if isinstance(video, VideoStream) and isinstance(audio, AudioStream):
            out_video, out_audio = drive_together(
                video.run(_patchify(latents.video), sigma, keys.video, view),
                audio.run(latents.audio, sigma, keys.audio, view),
            )
            return PerStream(_unpatchify(out_video, latents.video), out_audio)
        if self.exchange is None:
            raise ShapeError(
                "expected both halves or an exchange with the other one, got one half alone;"
                " give the DualStreamTransformer an exchange"
            )
        if isinstance(video, VideoStream):
            like = self._message_like(latents.video, view)
            run = video.run(_patchify(latents.video), sigma, keys.video, view)
            velocity = _unpatchify(self.exchange.drive_video(run, like), latents.video)
            return PerStream(velocity, None)  # type: ignore[arg-type]
        assert isinstance(audio, AudioStream)
        heard = self.exchange.drive_audio(audio.run(latents.audio, sigma, keys.audio, view))
        return PerStream(None, heard)  # type: ignore[arg-type]

    def _message_like(self, video: Tensor, view: AttentionView) -> Tensor:
        stream = self.config.audio
        tokens = len(view.token_blocks().audio)
        return torch.empty(
            len(video),
            stream.heads,
            tokens,
            stream.head_dim,
            dtype=video.dtype,
            device=video.device,
        )

    def _check(self, name: str, value: Tensor) -> None:
        stream = self.config.video if name == "video" else self.config.audio
        axes = 5 if name == "video" else 3
        if value.ndim != axes or value.shape[2] != stream.latent_channels:
            raise ShapeError(
                f"expected {name} latents with {axes} axes and {stream.latent_channels} channels on"
                f" axis 2, got {tuple(value.shape)}; check the codec and the preset"
            )


def _patchify(video: Tensor) -> Tensor:
    return video.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _unpatchify(tokens: Tensor, like: Tensor) -> Tensor:
    batch, frames, channels, height, width = like.shape
    grid = tokens.reshape(batch, frames, height, width, channels)
    return grid.permute(0, 1, 4, 2, 3)
