"""What a run of preprocessing did and what it took: for its caller, its report and its run in
MLflow."""

from infra.dataset.manifest import DatasetManifest
from infra.dataset.outcome_table import OutcomeCounts


class PreprocessSummary(OutcomeCounts):
    """What a run did: rows by outcome, where the dataset is, and its digest.

    `seconds`: by the clock. `rows_worked`: by this run, without those that an earlier one had
    finished. `stage_seconds`: of work, by the stage's class and summed over its actors.
    """

    dataset: str
    digest: str
    seconds: float
    rows_worked: int
    stage_seconds: dict[str, float]


def summarize(
    manifest: DatasetManifest,
    dataset: str,
    rows_worked: int = 0,
    stage_seconds: dict[str, float] | None = None,
) -> PreprocessSummary:
    """The summary of a run that left `manifest` in `dataset`; its `seconds` are still to be set."""
    counts = OutcomeCounts.model_validate(manifest.provenance["counts"])
    return PreprocessSummary(
        **counts.model_dump(),
        dataset=dataset,
        digest=manifest.digest,
        seconds=0.0,
        rows_worked=rows_worked,
        stage_seconds=stage_seconds or {},
    )
