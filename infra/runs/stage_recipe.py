"""The recipe of a stage: all of its configuration but what is named here as deciding nothing.

So a new field is in every recipe until somebody says why it need not be, and a run whose clips are
longer, or whose captions are read by another encoder, is not taken for the one that is there. What
changes the last digits alone stays out: how many workers there are, their ZeRO stage and their
machine, and versions of libraries, which a model's manifest records.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from infra.config import RunConfig
from infra.runs.provenance import ArtifactRef, Recipe
from infra.stages import STAGES

_IN_DATASET = "decides the dataset, whose digest is among the inputs"
_IN_TEXT = "a place; the digest of what is there is among the inputs"
_OTHER_WORK = "of work that trains nothing"
_SPEED = "how fast, not what"
# Fields, and sections with all that is in them, that decide no stage's result, and why.
NOT_DECIDING: Mapping[str, str] = {
    "name": "what the run is called",
    "codec.video": _IN_DATASET,
    "codec.audio": _IN_DATASET,
    "codec.video_decode": _OTHER_WORK,
    "codec.text": _IN_TEXT,
    "codec.connectors": _IN_TEXT,
    "data.split": _IN_DATASET,
    "data.gates": _IN_DATASET,
    "data.loudness_lufs": _IN_DATASET,
    "data.decode_timeout_s": _IN_DATASET,
    "data.rewriter": _IN_DATASET,
    "data.rows_per_shard": _SPEED,
    "preprocessing": _IN_DATASET,
    "models": "where other runs have left models; what a stage starts from is among the inputs",
    "serve": _OTHER_WORK,
    "cluster": _SPEED,
    "tracking": "where figures go",
    "output": "who may write",
    "planning": _OTHER_WORK,
    "demo": _OTHER_WORK,
}
# Likewise, of a stage's own settings.
NOT_DECIDING_SETTINGS: Mapping[str, str] = {
    "optimiser.checkpoint_every": "how often is saved",
    "optimiser.zero_stage": "how state is spread over workers",
    "optimiser.recomputes": "what is kept of a pass, not what it computes",
    "rollout_weights": "where a pass reads its weights, not what they are",
    "rows_per_shard": _SPEED,
}

# Of `sampling`: how a trained student is streamed is no stage's matter.
HOW_STUDENTS_STREAM = ("student_precision", "student_kernels", "student_passes")


def deciding_values(config: RunConfig) -> dict[str, Any]:
    """The configuration outside of its stages, without what decides none of them."""
    return _without(config.model_dump(mode="json", exclude={"stages"}), NOT_DECIDING)


def stage_recipe(config: RunConfig, stage: str, inputs: Sequence[ArtifactRef]) -> Recipe:
    """All that decides what `stage` makes; ConfigError for an unknown stage."""
    settings = config.stages.of(stage).model_dump(mode="json")
    values = deciding_values(config)
    # What of `sampling` a stage uses is a fact of the stage.
    sampled = values["sampling"] if settings.get("guided") else STAGES[stage].sampling
    values["sampling"] = {key: values["sampling"][key] for key in sampled}
    for key in HOW_STUDENTS_STREAM:
        values["sampling"].pop(key, None)
    return {
        "stage": stage,
        "settings": _without(settings, NOT_DECIDING_SETTINGS),
        **values,
        "inputs": {ref.role: ref.digest for ref in inputs},
    }


def _without(values: dict[str, Any], paths: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """Nested `values` without those at the dotted `paths`."""
    return {
        key: _without(value, paths, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in paths
    }
