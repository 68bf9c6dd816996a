"""Pictures and sound to normalised latents of both streams."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.latents.codec_loading import load_audio_codec, load_video_codec, own_device
from infra.config import RunConfig
from infra.dataset.columns import OUTCOME_COLUMNS, Column
from infra.dataset.outcome_table import OK, QUARANTINED
from infra.dataset.reasons import Reason
from infra.dataset.shards import tensor_column
from omniforcing_model.codecs.audio_codec import AudioCodec
from omniforcing_model.codecs.pixels import from_pixels
from omniforcing_model.codecs.video_codec import VideoCodec
from omniforcing_model.errors import DivergenceError
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream


class LatentEncoder:
    """Encodes decoded clips, one at a time: latents do not depend on a clip's neighbours."""

    def __init__(
        self, config: RunConfig, codecs: tuple[VideoCodec, AudioCodec] | None = None
    ) -> None:
        """Load both codecs, onto the GPU if this actor claims one; or take those that are there."""
        self._device = own_device()
        if self._device == "cpu":
            # One claim, one thread; and sums round the same way on every machine.
            torch.set_num_threads(1)
        self._video, self._audio = codecs or (
            load_video_codec(config.codec, self._device),
            load_audio_codec(config.codec, self._device),
        )
        layout = BlockLayout(config.model.layout)
        self._latents = layout.latents(layout.blocks_for_seconds(config.data.seconds))

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Put `video` and `audio` latents in the place of `frames` and `waveform`.

        video: (rows, latents, channels, height, width), or an array of arrays where the rows'
        `height` and `width` differ; audio: (rows, latents, channels); float32. Rows that are not
        `ok`, or do not need latents, get zeros; one whose encoding fails becomes quarantined.
        """
        rows = {name: values for name, values in batch.items() if name not in _INPUTS}
        outcomes = {name: list(rows[name]) for name in OUTCOME_COLUMNS}
        sizes = zip(batch[Column.HEIGHT], batch[Column.WIDTH], strict=True)
        latents = [self._zeros(int(height), int(width)) for height, width in sizes]
        for row, outcome in enumerate(outcomes[Column.OUTCOME]):
            if outcome != OK or not batch[Column.NEEDS_LATENTS][row]:
                continue
            try:
                clip = self.encode(batch[Column.FRAMES][row], batch[Column.WAVEFORM][row])
            except (ValueError, ArithmeticError) as error:
                outcomes[Column.OUTCOME][row] = QUARANTINED
                outcomes[Column.REASON][row] = Reason.NOT_ENCODABLE
                outcomes[Column.ERROR][row] = " ".join(str(error).split())
                continue
            latents[row] = clip
        columns = {name: np.array(values, dtype=object) for name, values in outcomes.items()}
        video, audio = (tensor_column([clip[stream] for clip in latents]) for stream in (0, 1))
        return {**rows, **columns, Column.VIDEO: video, Column.AUDIO: audio}

    def _zeros(self, height: int, width: int) -> PerStream[NDArray[np.float32]]:
        grid = latent_grid(height, width, self._video.spatial_stride)
        return PerStream(
            np.zeros((self._latents.video, self._video.latent_channels, *grid), np.float32),
            np.zeros((self._latents.audio, self._audio.latent_channels), np.float32),
        )

    def encode(
        self, frames: NDArray[np.uint8], waveform: NDArray[np.float32]
    ) -> PerStream[NDArray[np.float32]]:
        """Latents of the whole macro-blocks in one clip.

        frames: (frames, height, width, 3); waveform: (2, samples). Returns video (latents,
        channels, height, width) and audio (latents, channels). ShapeError or LayoutError if the
        clip does not fit the codecs, DivergenceError if a latent is not a finite number.
        """
        # Copied, because Ray hands out read-only memory, which torch cannot hold.
        pixels = torch.from_numpy(frames.copy()).to(self._device)
        video = self._video.encode(from_pixels(pixels[None]))[:, : self._latents.video]
        sound = torch.from_numpy(waveform.copy()).to(self._device)
        audio = self._audio.encode(sound[None], self._latents.audio)
        latents = PerStream(video, audio)
        for stream, value in latents.present():
            if not bool(torch.isfinite(value).all()):
                raise DivergenceError(
                    f"expected finite {stream} latents, got NaN or infinity; look at the clip"
                )
        return latents.map(lambda value: value[0].cpu().numpy())


_INPUTS = (Column.FRAMES, Column.WAVEFORM)
