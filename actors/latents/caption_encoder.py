"""Captions to the text features that both streams attend to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.latents.codec_loading import load_text_encoder, own_device
from infra.config import RunConfig
from infra.dataset.columns import TEXT_OUTCOME_COLUMNS, TEXT_TENSORS, Column
from infra.dataset.outcome_table import OK, QUARANTINED
from infra.dataset.reasons import Reason
from omniforcing_model.codecs.text_encoder import TextEncoder
from omniforcing_model.per_stream import PerStream


class CaptionEncoder:
    """Encodes the captions of rows."""

    def __init__(self, config: RunConfig, encoder: TextEncoder | None = None) -> None:
        """Load the run's text encoder, or take that which is there.

        ConfigError if its weights are not where the run says.
        """
        self._encoder = encoder or load_text_encoder(config, own_device())

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `video_text` and `audio_text`, (rows, tokens, width), to rows with a `caption`.

        The width may be another one for each stream. Each caption is encoded by itself, so that its
        features do not depend on its neighbours; rows whose `text_outcome` is not `ok` get zeros,
        and one whose features are not finite numbers becomes quarantined.
        """
        rows = np.flatnonzero(batch[Column.TEXT_OUTCOME] == OK)
        features = {row: self._encode(batch[Column.CAPTION][row]) for row in rows.tolist()}
        # The shape of some features fills the rows without text.
        shapes = next(iter(features.values()), None) or self._encode("")
        columns = {
            TEXT_TENSORS[stream]: np.zeros((len(batch[Column.CAPTION]), *value.shape), np.float32)
            for stream, value in shapes.present()
        }
        outcomes = {name: batch[name].copy() for name in TEXT_OUTCOME_COLUMNS if name in batch}
        for row, of_row in features.items():
            if not all(np.isfinite(value).all() for value in of_row):
                for name, text in zip(TEXT_OUTCOME_COLUMNS, _NOT_FINITE, strict=True):
                    outcomes[name][row] = text
                continue
            for stream, value in of_row.present():
                columns[TEXT_TENSORS[stream]][row] = value
        return {**batch, **outcomes, **columns}

    def _encode(self, caption: object) -> PerStream[NDArray[np.float32]]:
        """Features (tokens, width) of one caption, per stream."""
        features = self._encoder.encode([str(caption)])
        return features.map(lambda value: value[0].float().numpy())


_NOT_FINITE = (
    QUARANTINED,
    Reason.CAPTION_NOT_ENCODABLE,
    "expected finite text features, got NaN or infinity; look at the caption and codec.dtype",
)
