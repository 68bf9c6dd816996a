"""Preprocessing as a plain loop over the same classes: what the Ray graphs are measured against."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.config import RunConfig
from infra.dataset.outcome_table import OK
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clips import list_clips
from pipelines.preprocessing.preprocess import GraphStage, row_stages, survey_stages

Batch = dict[str, NDArray[Any]]


class PlainPreprocessing:
    """Every stage once, in this process; a clip, and a window, at a time."""

    def __init__(self, config: RunConfig, clips: str) -> None:
        """Load every stage."""
        self._clips = clips
        self._surveying = _loaded(survey_stages(config, clips))
        self._working = _loaded(row_stages(config, clips))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that end well, with their tensors."""
        for clip in list_clips(ObjectStore(self._clips)):
            surveyed = _passed(self._surveying, _batch_of_one(clip._asdict()))
            for start_s in surveyed["starts_s"][0]:
                work = {"start_s": start_s, "needs_latents": True, "needs_text": True}
                row = _passed(self._working, surveyed | _batch_of_one(work))
                if row["outcome"][0] == row["text_outcome"][0] == OK:
                    yield {name: values[0] for name, values in row.items()}


def _loaded(stages: Sequence[GraphStage]) -> list[Any]:
    return [stage.actor(**stage.arguments) for stage in stages]


def _batch_of_one(values: dict[str, Any]) -> Batch:
    return {
        name: np.array([value], dtype=object if isinstance(value, str) else None)
        for name, value in values.items()
    }


def _passed(actors: Sequence[Any], batch: Batch) -> Batch:
    for actor in actors:
        batch = actor(batch)
    return batch
