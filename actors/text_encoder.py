"""Captions to the text features that both streams attend to."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from actors.codec_loading import load_text_encoder, own_device
from infra.config import RunConfig


class CaptionEncoder:
    """Encodes the captions of rows."""

    def __init__(self, config: RunConfig) -> None:
        """Load the run's text encoder; ConfigError if its weights are not where the run says."""
        self._encoder = load_text_encoder(config, own_device())

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `video_text` and `audio_text`, (rows, tokens, width), to rows with a `caption`.

        The width may be another one for each stream.
        """
        features = self._encoder.encode([str(caption) for caption in batch["caption"]])
        named = {f"{stream}_text": value.numpy() for stream, value in features.present()}
        return {**batch, **named}
