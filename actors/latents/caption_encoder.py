"""Captions to the text features that both streams attend to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.latents.codec_loading import load_text_encoder, own_device
from infra.config import RunConfig
from infra.dataset.columns import TEXT_TENSORS, Column
from infra.dataset.outcome_table import OK


class CaptionEncoder:
    """Encodes the captions of rows."""

    def __init__(self, config: RunConfig) -> None:
        """Load the run's text encoder; ConfigError if its weights are not where the run says."""
        self._encoder = load_text_encoder(config, own_device())

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `video_text` and `audio_text`, (rows, tokens, width), to rows with a `caption`.

        The width may be another one for each stream. Each caption is encoded by itself, so that its
        features do not depend on its neighbours; rows whose `text_outcome` is not `ok` get zeros.
        """
        good = batch[Column.TEXT_OUTCOME] == OK
        # Encode at least one caption: its shape fills the rows without text.
        captions = [str(caption) for caption in batch[Column.CAPTION][good]] or [""]
        features = [self._encoder.encode([caption]) for caption in captions]
        columns = {}
        for stream, first in features[0].present():
            values = np.zeros((len(good), *first.shape[1:]), np.float32)
            if good.any():
                values[good] = [getattr(each, stream)[0].float().numpy() for each in features]
            columns[TEXT_TENSORS[stream]] = values
        return {**batch, **columns}
