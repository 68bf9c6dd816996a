"""The dual-stream transformer: the student under a causal view, the teacher without one.

LTX-2's structure with video and audio parameters in separate modules that meet once per
layer (exchange.py).
"""

from collections.abc import Collection, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import ShapeError
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.attention_view import CPU, AttentionView
from omniforcing_model.transformer.exchange import (
    AudioLane,
    BothLayers,
    Exchange,
    RunLayer,
    layer_of_both,
)
from omniforcing_model.transformer.level_table import LevelTable, StreamLevels, stream_levels
from omniforcing_model.transformer.modality_stream import AudioStream, VideoStream
from omniforcing_model.transformer.modulation import NoiseLevel, StreamModulation
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.projections import (
    FileTensor,
    Linear,
    Product,
    file_tensors,
    pack_for_streaming,
)
from omniforcing_model.transformer.stream_layer import Pass, Residual
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel
from omniforcing_model.transformer.text_context import TextContext

UNPERTURBED = Perturbation()
KEPT_LEVELS = 16  # a preset has five


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
        self._run_layer: RunLayer = layer_of_both
        self._lane: AudioLane | None = None
        self._kept: dict[PerStream[float], NoiseLevel] | None = None
        self._table: tuple[tuple[float, ...], LevelTable] | None = None
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

    @classmethod
    def without_memory(cls, config: ModelConfig) -> Self:
        """The model on the meta device: names and shapes alone."""
        with torch.device("meta"):
            return cls(config)

    def read_text(self, text: PerStream[Tensor], at_once: bool = True) -> TextContext:
        """Text keys and values from features (batch, text tokens, text_width) per stream.

        `at_once`: else each layer makes its own when a pass comes to it: then no layer's weights
        are read before.
        """
        return TextContext(
            self.halves.map(lambda half, features: half.read_text(features, at_once), text)
        )

    def at_noise_level(
        self, sigma: Tensor | PerStream[Tensor], text_sigma: Tensor | None = None
    ) -> NoiseLevel:
        """Modulation at sigma, to be used by any number of passes.

        Args:
            sigma: noise level in [0, 1], (batch, 1), or (batch, columns) where a view has more; of
                both streams, or one each.
            text_sigma: of the prompt's modulation (LTX-2.3), if it is not each column's own: a clip
                with clean conditioning latents has one sigma for its prompt, (batch, 1). Without
                effect where the layout's `prompt_sigma` is one.
        """
        of_stream = sigma if isinstance(sigma, PerStream) else PerStream(sigma, sigma)

        def modulate(half: VideoStream | AudioStream, own: Tensor) -> StreamModulation:
            level = half.modulation(own)
            if text_sigma is not None:
                level.prompt = half.modulation(text_sigma).prompt
            return level

        return NoiseLevel(self.halves.map(modulate, of_stream))

    def run_layers_by(self, run_layer: RunLayer) -> None:
        """Let `run_layer` run each layer of both streams, as training does, which gathers its
        weights and may recompute it."""
        self._run_layer = run_layer
        # Weights come and go on the stream on which layers are queued: nothing runs beside it.
        self._lane = AudioLane(CPU)

    def multiply_by(self, product: Product) -> None:
        """Let `product` make the products of all layers, as training does where weights come and
        go."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.product = product

    def seal(self) -> Self:
        """Take the weights as final: streaming them may prepare what it reads again and again.

        Projections are laid out in place as they are multiplied fastest, and modulation is kept
        from stream to stream. The model can no longer be trained, loaded or written to a file.
        """
        self.requires_grad_(False)
        pack_for_streaming(self)
        self._kept = {}
        return self

    @property
    def is_sealed(self) -> bool:
        """Whether the weights are final."""
        return self._kept is not None

    def level_of(self, sigma: PerStream[float]) -> NoiseLevel:
        """Modulation at each stream's sigma, of a batch of any size; once for a sealed model."""
        if self._kept is None:
            return self.at_noise_level(sigma.map(self._one))
        if sigma not in self._kept:
            if len(self._kept) >= KEPT_LEVELS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[sigma] = self.at_noise_level(sigma.map(self._one))
        return self._kept[sigma]

    def level_table(self, sigmas: Sequence[float]) -> LevelTable:
        """Modulation rows at `sigmas`, of which a pass picks by index; once for a sealed model."""
        self._audio_lane()  # a compiler sees what is there already
        wanted = tuple(sigmas)
        if self._table is None or self._table[0] != wanted or self._kept is None:
            self._table = (wanted, self._level_table(wanted))
        return self._table[1]

    def _level_table(self, sigmas: tuple[float, ...]) -> LevelTable:
        levels = [self.level_of(PerStream(sigma, sigma)).modulation for sigma in sigmas]

        def stacked(half: VideoStream | AudioStream, *of_level: StreamModulation) -> StreamLevels:
            return stream_levels(of_level, half.stream_layers, half.table_out)

        values = torch.tensor(sigmas, dtype=torch.float32)
        return LevelTable(to_device(values, self.device), self.halves.map(stacked, *levels))

    def _one(self, sigma: float) -> Tensor:
        return torch.full((1, 1), sigma, device=self.device)

    def forward(
        self,
        latents: PerStream[Tensor],
        sigma: Tensor | PerStream[Tensor] | NoiseLevel,
        text: TextContext,
        view: AttentionView,
        perturbation: Perturbation = UNPERTURBED,
    ) -> PerStream[Tensor]:
        """Velocities in the shapes of `latents`.

        Args:
            latents: video (batch, frames, channels, height, width), audio (batch, frames,
                channels).
            sigma: noise level in [0, 1], (batch, 1), or (batch, blocks) under a causal view, of
                both streams or one each; or the `NoiseLevel` of `at_noise_level`.
            text: of `read_text`.
            view: where the tokens are in time, and which keys they read.
            perturbation: what is left out, for guidance.
        """
        for name, value in latents.present():
            self._check(name, value)
        level = sigma if isinstance(sigma, NoiseLevel) else self.at_noise_level(sigma)
        tokens = PerStream(_patchify(latents.video), latents.audio)  # a hole stays one
        started = self.halves.map(
            lambda half, own, modulation, prompt: half.start(
                own, modulation, prompt, view, perturbation
            ),
            tokens,
            level.modulation,
            text.streams,
        )
        states = started.map(lambda state_run: state_run[0])
        runs = started.map(lambda state_run: state_run[1])
        velocity = self._through_layers(states, runs)
        video = velocity.video
        if video is not None:
            video = _unpatchify(video, latents.video)
        return PerStream(video, velocity.audio)

    def _through_layers(
        self, states: PerStream[Residual], runs: PerStream[Pass]
    ) -> PerStream[Tensor]:
        video, audio = self.halves
        if isinstance(video, VideoStream) and isinstance(audio, AudioStream):
            lane = self._audio_lane()
            for layers in zip(video.stream_layers, audio.stream_layers, strict=True):
                states = self._run_layer(BothLayers(*layers), states, runs, lane)
            of_audio = lane.run(lambda: audio.velocity(states.audio, runs.audio))
            of_video = video.velocity(states.video, runs.video)
            lane.join(of_audio)
            return PerStream(of_video, of_audio)
        if self.exchange is None:
            raise ShapeError(
                "expected both halves or an exchange with the other one, got one half alone;"
                " give the DualStreamTransformer an exchange"
            )
        if isinstance(video, VideoStream):
            picture = self._video_alone(video, states.video, runs.video, self.exchange)
            return PerStream(picture, None)  # type: ignore[arg-type]
        assert isinstance(audio, AudioStream)
        sound = self._audio_alone(audio, states.audio, runs.audio, self.exchange)
        return PerStream(None, sound)  # type: ignore[arg-type]

    def _video_alone(
        self, stream: VideoStream, state: Residual, run: Pass, exchange: Exchange
    ) -> Tensor:
        like = self._message_like(state.tokens, run.view)
        for layer in stream.stream_layers:
            at = layer.before(state, run, run.view.slot("video_to_audio", layer.index))
            message = exchange.hear(like)
            layer.keep(message, run)
            exchange.answer(layer.answer(at, message, run))
            isolate = run.perturbation.isolate
            state = layer.after(at, None if isolate else layer.hear(at, message, run), run)
        return stream.velocity(state, run)

    def _audio_alone(
        self, stream: AudioStream, state: Residual, run: Pass, exchange: Exchange
    ) -> Tensor:
        for layer in stream.stream_layers:
            at = layer.before(state, run)
            answer = exchange.ask(at.cross)
            state = layer.after(at, None if run.perturbation.isolate else answer, run)
        return stream.velocity(state, run)

    def _audio_lane(self) -> AudioLane:
        if self._lane is None:
            self._lane = AudioLane(self.device)
        return self._lane

    def _message_like(self, video: Tensor, view: AttentionView) -> Tensor:
        """Shape and type of a message's parts; `video` (batch, tokens, width)."""
        stream = self.config.audio
        heads = range(stream.heads)[self.parallel.video.heads(stream.heads)]
        tokens = sum(view.columns.audio.counts)
        return video.new_empty(len(video), len(heads), tokens, stream.head_dim)

    def _check(self, name: str, value: Tensor) -> None:
        stream = self.config.video if name == "video" else self.config.audio
        axes = 5 if name == "video" else 3
        if value.ndim != axes or value.shape[2] != stream.latent_channels:
            raise ShapeError(
                f"expected {name} latents with {axes} axes and {stream.latent_channels} channels on"
                f" axis 2, got {tuple(value.shape)}; check the codec and the preset"
            )


def _patchify(video: Tensor | None) -> Tensor | None:
    if video is None:
        return None
    return video.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _unpatchify(tokens: Tensor, like: Tensor) -> Tensor:
    batch, frames, channels, height, width = like.shape
    grid = tokens.reshape(batch, frames, height, width, channels)
    return grid.permute(0, 1, 4, 2, 3)
