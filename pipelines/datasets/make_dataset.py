"""A preprocessing run as its user sees it: the dataset, a page about it, and its run in MLflow.

The dataset comes first. What is told of it afterwards can fail by itself, as when MLflow is away: a
file notes what has been told, and the same command again makes up for the rest.
"""

import hashlib

from pydantic import ValidationError

from infra.config import RunConfig
from infra.dataset.manifest import MANIFEST, read_manifest
from infra.records import Record
from infra.runs.tracking import is_at
from infra.storage.object_store import ObjectStore, confined_store
from infra.terminal.progress import Progress
from pipelines.datasets.report.page import HTML_FILE, write_report
from pipelines.lineage.dataset_tracking import track_dataset, tracking_address
from pipelines.preprocessing.preprocess import preprocess
from pipelines.preprocessing.summary import PreprocessSummary

TOLD_FILE = "told.json"


class Told(Record):
    """What has been told of a dataset: `reported`, the digest of the manifest that its page is of;
    `tracked`, the digest of the dataset that MLflow at `uri` knows."""

    reported: str = ""
    uri: str | None = None
    tracked: str = ""


def make_dataset(
    config: RunConfig,
    clips: str,
    out: str,
    progress: Progress,
    *,
    captions: str | None = None,
    redrive: bool = False,
) -> PreprocessSummary:
    """As `preprocess`; what was not reported and tracked yet is, also of a run before."""
    source, target = confined_store(clips), ObjectStore(out)
    before = _committed(target)

    def report_and_track(summary: PreprocessSummary) -> None:
        made_by = summary if _committed(target) != before else None
        tell_of_dataset(config, source, target, summary, made_by, progress)

    return preprocess(
        config, clips, out, progress, captions=captions, redrive=redrive, report=report_and_track
    )


def tell_of_dataset(
    config: RunConfig,
    source: ObjectStore,
    target: ObjectStore,
    summary: PreprocessSummary,
    made_by: PreprocessSummary | None,
    progress: Progress,
) -> None:
    """Report and track a dataset as far as that was not done before.

    Args:
        config: of the run.
        source: the clips.
        target: the dataset, which is committed.
        summary: what the run did, for the report.
        made_by: the same if it has made the dataset, None if an earlier one did.
        progress: gets a step.

    Raises:
        ConfigError: nothing answers at `config.tracking.uri`.
        DatasetError: the dataset is damaged.
    """
    manifest, told = read_manifest(target), _told(target)
    assert manifest is not None, "preprocess has just written it"
    current = f"sha256:{hashlib.sha256(_committed(target)).hexdigest()}"
    address = tracking_address(config, target)
    is_reported = told.reported == current and target.has(HTML_FILE)
    is_known = told.uri == address and told.tracked == manifest.digest
    is_tracked = address is not None and is_known and is_at(address)
    if is_reported and (is_tracked or address is None):
        return
    with progress.stage("report", total=1) as stage:
        report = f"{target.uri}/{HTML_FILE}"
        if not is_reported:
            report = write_report(target, source, config, summary)
            told = told.model_copy(update={"reported": current})
            _note(target, told)
        if not is_tracked and track_dataset(config, manifest, target.uri, made_by, report):
            _note(target, told.model_copy(update={"uri": address, "tracked": manifest.digest}))
        stage.advance()


def _told(target: ObjectStore) -> Told:
    try:
        return Told.model_validate_json(target.read(TOLD_FILE))
    except (FileNotFoundError, ValidationError):
        return Told()


def _note(target: ObjectStore, told: Told) -> None:
    target.write(TOLD_FILE, told.model_dump_json(indent=1).encode() + b"\n")


def _committed(target: ObjectStore) -> bytes:
    """The manifest in `target` as it is, whole or not; empty if there is none."""
    return target.read(MANIFEST) if target.has(MANIFEST) else b""
