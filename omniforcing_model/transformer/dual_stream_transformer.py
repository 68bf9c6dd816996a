"""The dual-stream transformer: the student under a causal view, the teacher without one.

LTX-2's structure with video and audio parameters in separate modules that meet once per
layer (exchange.py).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import ShapeError
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.exchange import AudioLane, Exchange, drive_together
from omniforcing_model.transformer.modality_stream import AudioStream, Pass, VideoStream
from omniforcing_model.transformer.modulation import NoiseLevel, StreamModulation
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.projections import FileTensor, file_tensors
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel
from omniforcing_model.transformer.text_context import TextContext

UNPERTURBED = Perturbation()


class DualStreamTransformer(nn.Module):
    """Velocity of noisy video and audio latents at sigma, under a view.

    A replica that holds one half names it in `halves` and gives the `exchange` that reaches the
    other; its PerStreams carry None in the other place. A stream that is spread over processes says
    how in `parallel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        exchange: Exchange | None = None,
        halves: Collection[str] = STREAMS,
        parallel: PerStream[StreamParallel] = UNSPLIT,
    ) -> None:
        super().__init__()
        if parallel.audio.cuts_tokens:
            raise ShapeError(
                "expected the audio stream whole or tensor parallel, got sequence parallel: its"
                " tokens are few and do not divide; use kind tensor for it"
            )
        self.config = config
        self.exchange = exchange
        self.parallel = parallel
        self.video = VideoStream(config, parallel.video) if "video" in halves else None
        self.audio = AudioStream(config, parallel.audio) if "audio" in halves else None
        self._lane: AudioLane | None = None
        # The zero start lets a fresh model predict velocity 0 instead of noise.
        for half in (self.video, self.audio):
            if half is not None:
                nn.init.zeros_(half.proj_out.weight)
                nn.init.zeros_(half.proj_out.bias)

    @property
    def halves(self) -> PerStream[VideoStream | AudioStream | None]:
        """The streams this process holds, None in the place of one it does not."""
        return PerStream(self.video, self.audio)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are."""
        return next(self.parameters()).dtype

    def file_pieces(self) -> dict[str, FileTensor]:
        """Every parameter under its name in a file, and which part of the file's tensor it is."""
        return dict(file_tensors(self))

    def file_tensors(self) -> dict[str, Tensor]:
        """Every parameter under its name in a file, as views: writing into them loads the model."""
        return {name: piece.view for name, piece in self.file_pieces().items()}

    def read_text(self, text: PerStream[Tensor]) -> TextContext:
        """Text keys and values from features (batch, text tokens, text_width) per stream."""
        return TextContext(self.halves.map(lambda half, features: half.read_text(features), text))

    def at_noise_level(self, sigma: Tensor, text_sigma: Tensor | None = None) -> NoiseLevel:
        """Modulation at sigma, to be used by any number of passes.

        Args:
            sigma: noise level in [0, 1], (batch, 1), or (batch, columns) where a view has more.
            text_sigma: of the prompt's modulation (LTX-2.3), if it is not each column's own: a clip
                with clean conditioning latents has one sigma for its prompt, (batch, 1).
        """

        def modulate(half: VideoStream | AudioStream) -> StreamModulation:
            level = half.modulation(sigma)
            if text_sigma is not None:
                level.prompt = half.modulation(text_sigma).prompt
            return level

        return NoiseLevel(self.halves.map(modulate))

    def forward(
        self,
        latents: PerStream[Tensor],
        sigma: Tensor | NoiseLevel,
        text: TextContext,
        view: AttentionView,
        perturbation: Perturbation = UNPERTURBED,
    ) -> PerStream[Tensor]:
        """Velocities in the shapes of `latents`.

        Args:
            latents: video (batch, frames, channels, height, width), audio (batch, frames,
                channels).
            sigma: noise level in [0, 1], (batch, 1), or (batch, blocks) under a causal view; or
                the `NoiseLevel` of `at_noise_level`.
            text: of `read_text`.
            view: where the tokens are in time, and which keys they read.
            perturbation: what is left out, for guidance.
        """
        for name, value in latents.present():
            self._check(name, value)
        level = sigma if isinstance(sigma, NoiseLevel) else self.at_noise_level(sigma)
        passes = level.modulation.map(
            lambda modulation, prompt: Pass(modulation, prompt, view, perturbation), text.streams
        )
        video, audio = self.halves
        if isinstance(video, VideoStream) and isinstance(audio, AudioStream):
            out_video, out_audio = drive_together(
                video.run(_patchify(latents.video), passes.video),
                audio.run(latents.audio, passes.audio),
                self._audio_lane(),
            )
            return PerStream(_unpatchify(out_video, latents.video), out_audio)
        if self.exchange is None:
            raise ShapeError(
                "expected both halves or an exchange with the other one, got one half alone;"
                " give the DualStreamTransformer an exchange"
            )
        if isinstance(video, VideoStream):
            like = self._message_like(latents.video, view)
            run = video.run(_patchify(latents.video), passes.video)
            velocity = _unpatchify(self.exchange.drive_video(run, like), latents.video)
            return PerStream(velocity, None)  # type: ignore[arg-type]
        assert isinstance(audio, AudioStream)
        velocity = self.exchange.drive_audio(audio.run(latents.audio, passes.audio))
        return PerStream(None, velocity)  # type: ignore[arg-type]

    def _audio_lane(self) -> AudioLane:
        if self._lane is None:
            self._lane = AudioLane(self.device)
        return self._lane

    def _message_like(self, video: Tensor, view: AttentionView) -> Tensor:
        stream = self.config.audio
        tokens = len(view.token_blocks().audio)
        heads = range(stream.heads)[self.parallel.video.heads(stream.heads)]
        return torch.empty(
            len(video),
            len(heads),
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
