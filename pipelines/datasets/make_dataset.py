"""A preprocessing run as its user sees it: the dataset, a page about it, and its run in MLflow."""

from infra.config import RunConfig
from infra.dataset.manifest import MANIFEST, read_manifest
from infra.storage.object_store import ObjectStore, confined_store
from infra.terminal.progress import Progress
from pipelines.datasets.report.page import write_report
from pipelines.lineage.dataset_tracking import track_dataset
from pipelines.preprocessing.preprocess import preprocess
from pipelines.preprocessing.summary import PreprocessSummary


def make_dataset(
    config: RunConfig,
    clips: str,
    out: str,
    progress: Progress,
    *,
    captions: str | None = None,
    redrive: bool = False,
) -> PreprocessSummary:
    """As `preprocess`; what has changed anything is reported and tracked too."""
    source, target = confined_store(clips), ObjectStore(out)
    before = _committed(target)

    def report_and_track(summary: PreprocessSummary) -> None:
        if _committed(target) == before:
            return
        manifest = read_manifest(target)
        assert manifest is not None, "preprocess has just written it"
        with progress.stage("report", total=1) as stage:
            report = write_report(target, source, config, summary)
            track_dataset(config, manifest, target.uri, summary, report)
            stage.advance()

    return preprocess(
        config, clips, out, progress, captions=captions, redrive=redrive, report=report_and_track
    )


def _committed(target: ObjectStore) -> bytes:
    """The manifest in `target` as it is, whole or not; empty if there is none."""
    return target.read(MANIFEST) if target.has(MANIFEST) else b""
