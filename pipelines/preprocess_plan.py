"""What a preprocessing run has to do, and what earlier runs have done already.

A row is named after what it is made from: the digest of the clip, the raw caption, and the recipe
(the configuration and codecs that shape its latents). A row that is in a shard under that name is
done, whoever wrote it, also a run that was killed before it could finish.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from infra.config import RunConfig
from infra.errors import DatasetError
from infra.latent_shards import (
    SHARDS,
    DatasetManifest,
    ShardRecord,
    is_shard_name,
    missing_shard,
    read_manifest,
    shard_record,
    shard_rows,
)
from infra.object_store import ObjectStore, StoredFile
from infra.outcome_table import FILTERED, OK, QUARANTINED, Outcome, OutcomeKind, read_outcomes
from pipelines.clip_listing import ListedClip
from pipelines.codec_digests import codec_digests

LOG = logging.getLogger(__name__)

KIND = "latents"
# Part of every row's name: raise it when the same input gives other latents than before.
RECIPE_VERSION = 1
PLAIN_COLUMNS = ("row_id", "clip_digest", "caption_raw", "caption", "rewritten")


class PreprocessInput(NamedTuple):
    """A row per clip: `ok` if it may be worked on, else with the outcome that it has already.

    `recipe`: what else decides a row's content; `digest`: of everything that a run would see.
    """

    rows: list[Outcome]
    recipe: dict[str, Any]
    digest: str


@dataclass
class PreprocessPlan:
    """`ended`: rows whose outcome is known; `missing`: rows to work on, `ok` if all goes well.

    `kept`: earlier shards that stay; `narrowed`: those that lose rows, which are listed; `stale`:
    those that nothing needs once the new dataset is committed.
    """

    ended: list[Outcome] = field(default_factory=list)
    missing: list[Outcome] = field(default_factory=list)
    kept: list[ShardRecord] = field(default_factory=list)
    narrowed: dict[str, set[str]] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)


def recipe_of(config: RunConfig) -> dict[str, Any]:
    """Everything besides clip and caption that decides what a row holds, or whether it is refused.

    CheckpointError or ConfigError if a codec is not there.
    """
    return {
        "version": RECIPE_VERSION,
        # How rows are grouped, and how long we wait for a decoder, change no row.
        "data": config.data.model_dump(exclude={"rows_per_shard", "decode_timeout_s"}),
        "codecs": codec_digests(config.codec),
        "codec_kind": config.codec.kind,
        "text": {"tokens": config.codec.text_tokens, "width": config.model.text_width},
        "block_layout": config.model.layout.kind,
    }


def identify(
    config: RunConfig, clips: list[ListedClip], source: ObjectStore, target: ObjectStore
) -> PreprocessInput:
    """Name every row after what it is made from; reads the clips that `target` has not seen.

    CheckpointError or ConfigError if a codec is not there.
    """
    recipe = recipe_of(config)
    recipe_digest = _digest_of(recipe)
    # As version control does: a file of the same size and time has the same content.
    known = {
        StoredFile(row.clip_uri, row.clip_bytes, row.clip_modified_ns): row.clip_digest
        for row in read_outcomes(target)
    }
    rows: list[Outcome] = []
    first_with: dict[str, str] = {}
    for clip in clips:
        outcome, reason, error = _early_end(clip, config.data.max_caption_chars)
        digest = known.get(clip.file, "")
        if not digest and clip.problem != "missing_file":
            try:
                digest = source.digest(clip.file.name)
            except OSError as failure:
                outcome, reason, error = QUARANTINED, "unreadable", " ".join(str(failure).split())
        row_id = _digest_of([digest or clip.file.name, clip.caption, recipe_digest])
        if outcome == OK and row_id in first_with:
            outcome, reason = FILTERED, "duplicate"
            error = f"expected each clip once, got content and caption of {first_with[row_id]}"
        first_with.setdefault(row_id, clip.file.name)
        rows.append(
            Outcome(*clip.file, digest, row_id, clip.caption, "", False, outcome, reason, error, 1)
        )
    ends = sorted((row.clip_uri, row.row_id, row.outcome, row.reason) for row in rows)
    return PreprocessInput(
        rows, recipe, _digest_of([source.uri, config.data.decode_timeout_s, ends])
    )


def finished_before(given: PreprocessInput, target: ObjectStore) -> DatasetManifest | None:
    """The dataset in `target` if it is whole, and was made from the same clips in the same way."""
    manifest = _usable_manifest(target)
    if manifest is None or missing_shard(target, manifest) is not None:
        return None
    return manifest if manifest.provenance.get("input_digest") == given.digest else None


def plan_preprocessing(given: PreprocessInput, target: ObjectStore) -> PreprocessPlan:
    """Compare the rows with the shards and outcomes in `target`."""
    plan = PreprocessPlan()
    done = _find_done_rows(plan, {row.row_id for row in given.rows if row.outcome == OK}, target)
    earlier = {row.row_id: row for row in read_outcomes(target) if row.outcome != OK}
    for row in given.rows:
        before = earlier.get(row.row_id)
        if row.outcome != OK:
            plan.ended.append(row)
        elif row.row_id in done:
            found = done[row.row_id]
            plan.ended.append(row._replace(caption=found["caption"], rewritten=found["rewritten"]))
        elif before is not None and before.outcome == FILTERED and before.reason != "duplicate":
            plan.ended.append(
                row._replace(outcome=FILTERED, reason=before.reason, error=before.error)
            )
        else:
            plan.missing.append(row._replace(attempts=1 + (before.attempts if before else 0)))
    return plan


def _usable_manifest(target: ObjectStore) -> DatasetManifest | None:
    try:
        manifest = read_manifest(target)
    except DatasetError as error:
        LOG.warning("making the dataset anew: %s", error)
        return None
    if manifest is not None and manifest.kind != KIND:
        raise DatasetError(
            f"expected a dataset of {KIND} or a new folder at {target.uri}, got {manifest.kind};"
            " name another place for the output"
        )
    return manifest


def _early_end(clip: ListedClip, max_caption_chars: int) -> tuple[OutcomeKind, str, str]:
    if clip.problem:
        return QUARANTINED, clip.problem, clip.error
    if len(clip.caption) > max_caption_chars:
        length = len(clip.caption)
        error = f"expected at most {max_caption_chars} characters of caption, got {length}"
        return FILTERED, "caption_too_long", error
    return OK, "", ""


def _find_done_rows(
    plan: PreprocessPlan, wanted: set[str], target: ObjectStore
) -> dict[str, dict[str, Any]]:
    """Rows in the shards of `target` by id; says in `plan` what becomes of each shard."""
    manifest = _usable_manifest(target)
    recorded = {shard.name: shard for shard in manifest.shards} if manifest else {}
    done: dict[str, dict[str, Any]] = {}
    for file in target.list(SHARDS):
        if not is_shard_name(file.name):  # somebody else's file
            continue
        try:
            rows = shard_rows(target, file.name, PLAIN_COLUMNS)
        except DatasetError as error:
            LOG.warning("leaving out a shard: %s", error)
            rows = []
        new = [row for row in rows if row["row_id"] in wanted and row["row_id"] not in done]
        done |= {row["row_id"]: row for row in new}
        if rows and len(new) == len(rows):
            record = recorded.get(file.name) or shard_record(target, file.name, len(rows))
            plan.kept.append(record)
            continue
        plan.stale.append(file.name)
        if new:
            plan.narrowed[file.name] = {row["row_id"] for row in rows if row not in new}
    return done


def _digest_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
