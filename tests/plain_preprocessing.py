"""Preprocessing as a plain loop over the same classes: what the Ray graphs are compared with."""

import numpy as np

from infra.object_store import ObjectStore
from pipelines.clip_listing import list_clips
from pipelines.preprocess import row_stages, survey_stages


def by_loop(config, clips):
    """The rows that end well, each as a dict with its tensors: one clip, one window at a time."""
    surveying, working = (
        [stage.actor(**stage.arguments) for stage in stages(config, clips)]
        for stages in (survey_stages, row_stages)
    )
    kept = []
    for clip in list_clips(ObjectStore(clips)):
        found = passed(surveying, one_row(clip._asdict()))
        for start_s in found["starts_s"][0]:
            window = found | one_row(
                {
                    "start_s": start_s,
                    "needs_latents": True,
                    "needs_text": True,
                }
            )
            row = passed(working, window)
            if row["outcome"][0] == row["text_outcome"][0] == "ok":
                kept.append({name: values[0] for name, values in row.items()})
    return kept


def one_row(values):
    """A batch of one."""
    return {
        name: np.array([value], dtype=object if isinstance(value, str) else None)
        for name, value in values.items()
    }


def passed(actors, batch):
    """The batch after every actor, in order."""
    for actor in actors:
        batch = actor(batch)
    return batch
