"""Preprocessing as a plain loop over the same classes: what the Ray graphs are measured against."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.clips.size_buckets import nearest_sizes
from infra.config import RunConfig
from infra.dataset.columns import Column
from infra.dataset.outcome_table import OK
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clips import list_clips
from pipelines.preprocessing.pending_rows import rules_of
from pipelines.preprocessing.preprocess import GraphStage, row_stages, survey_stages

Batch = dict[str, NDArray[Any]]


class PlainPreprocessing:
    """Every stage once, in this process; a clip, and a window, at a time."""

    def __init__(self, config: RunConfig, clips: str) -> None:
        """Load every stage."""
        self._clips = clips
        self._rules = rules_of(config.data)
        self._surveying = _load(survey_stages(config, clips))
        self._working = _load(row_stages(config, clips))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows whose outcome is `ok`, with their tensors."""
        for clip in list_clips(ObjectStore(self._clips)):
            surveyed = _pass_through(self._surveying, _batch_of_one(clip._asdict()))
            sizes = nearest_sizes(surveyed[Column.ASPECT], self._rules.sizes)
            for start_s in surveyed[Column.STARTS_S][0][: self._rules.max_windows]:
                needs = {
                    Column.START_S: start_s,
                    Column.HEIGHT: sizes.height[0],
                    Column.WIDTH: sizes.width[0],
                    Column.NEEDS_LATENTS: True,
                    Column.NEEDS_TEXT: True,
                }
                row = _pass_through(self._working, surveyed | _batch_of_one(needs))
                if row[Column.OUTCOME][0] == row[Column.TEXT_OUTCOME][0] == OK:
                    yield {name: values[0] for name, values in row.items()}


def _load(stages: Sequence[GraphStage]) -> list[Any]:
    return [stage.actor(**stage.arguments) for stage in stages]


def _batch_of_one(values: dict[str, Any]) -> Batch:
    return {
        name: np.array([value], dtype=object if isinstance(value, str) else None)
        for name, value in values.items()
    }


def _pass_through(actors: Sequence[Any], batch: Batch) -> Batch:
    for actor in actors:
        batch = actor(batch)
    return batch
