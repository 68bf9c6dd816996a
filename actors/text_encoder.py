"""Captions to the text features that both streams attend to."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from omniforcing_model.codecs.tiny_text_encoder import TinyTextEncoder


class CaptionEncoder:
    """Encodes the captions of rows."""

    def __init__(self, tokens: int, width: int) -> None:
        """Load the encoder; features are (`tokens`, `width`) per stream."""
        self._encoder = TinyTextEncoder(tokens, width)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `video_text` and `audio_text`, (rows, tokens, width), to rows with a `caption`."""
        features = self._encoder.encode([str(caption) for caption in batch["caption"]])
        named = {f"{stream}_text": value.numpy() for stream, value in features.present()}
        return {**batch, **named}
