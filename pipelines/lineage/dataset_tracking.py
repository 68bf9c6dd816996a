"""A dataset's run in MLflow, one for each digest: lineage there reaches the clips."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.config import RunConfig
from infra.dataset.manifest import DatasetManifest
from infra.runs.provenance import digest_of, flatten
from infra.runs.tracking import COMMIT_TAG, RECIPE_TAG, Tracker, default_tracking_uri
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.summary import PreprocessSummary

LOG = logging.getLogger(__name__)

KIND = "preprocess"
CLIPS_TAG, REPORT_TAG = "omniforcing.clips", "omniforcing.report"
ARTIFACTS = "mlartifacts"


def tracking_address(config: RunConfig, dataset: ObjectStore) -> str | None:
    """Where a dataset gets its run: `config.tracking.uri`, else a file in its own folder if that is
    on this machine; else None."""
    if config.tracking.uri is None and not dataset.is_local:
        return None
    # In object storage the folder means nothing, but there the address is configured.
    return default_tracking_uri(config.tracking.uri, Path(dataset.uri))


def track_dataset(
    config: RunConfig,
    manifest: DatasetManifest,
    dataset_uri: str,
    summary: PreprocessSummary | None,
    report: str,
) -> bool:
    """Give the dataset its run in MLflow at `tracking_address`; whether it is known there now.

    A digest that a finished run has made already is not logged again.

    Args:
        config: of the run.
        manifest: of the dataset.
        dataset_uri: where it is.
        summary: what the run that made it did, if that is known.
        report: absolute path or URI of report.html.

    Raises:
        ConfigError: nothing answers at `config.tracking.uri`.
        OSError: the report cannot be read.
    """
    store = ObjectStore(dataset_uri)
    address = tracking_address(config, store)
    if address is None:
        LOG.info("no run in MLflow: %s is not on this machine; set tracking.uri", store.uri)
        return False
    artifacts = Path(store.uri) / ARTIFACTS if store.is_local else None
    tracker = Tracker(address, config.tracking.experiment, artifacts)
    record_dataset(tracker, config.name, manifest, store.uri, summary, report)
    return tracker.knows(manifest.digest)


def record_dataset(
    tracker: Tracker,
    name: str,
    manifest: DatasetManifest,
    dataset_uri: str,
    summary: PreprocessSummary | None = None,
    report: str | None = None,
) -> bool:
    """Log the dataset as a run of `tracker` unless it knows the digest; whether it was logged.

    Settings, counts and commit are those of the manifest: of the run that made the dataset.

    Args:
        tracker: MLflow.
        name: of the preset.
        manifest: of the dataset.
        dataset_uri: where it is.
        summary: of the run that made it, if that is known.
        report: absolute path or URI of report.html, if there is one.
    """
    if tracker.knows(manifest.digest):
        return False
    source = manifest.provenance
    recipe = source.get("recipe", {})
    tags = {RECIPE_TAG: digest_of(recipe), COMMIT_TAG: source.get("commit", "unknown")}
    if "clips" in source:
        tags[CLIPS_TAG] = source["clips"]
    if report is not None:
        tags[REPORT_TAG] = report
    parameters = flatten(source.get("config", recipe))
    with tracker.run(f"{name}-{KIND}", KIND, parameters, (), tags) as run:
        run.log(0, _metrics(source.get("counts", {"ok": manifest.rows}), summary))
        if report is not None:
            folder, _, file = report.rpartition("/")
            run.attach(file, ObjectStore(folder or "/").read(file).decode())
        run.record_result(manifest.digest, dataset_uri)
    return True


def _metrics(counts: Mapping[str, Any], summary: PreprocessSummary | None) -> dict[str, float]:
    metrics = {name: float(value) for name, value in flatten(counts).items()}
    if summary is not None:
        metrics |= {"seconds": summary.seconds, "rows_worked": float(summary.rows_worked)}
        if summary.seconds > 0:
            metrics["rows_per_second"] = summary.rows_worked / summary.seconds
        metrics |= {f"stage_seconds.{name}": s for name, s in summary.stage_seconds.items()}
    return metrics
