"""What a run says of itself: the manifest's counts, and its own work."""

from infra.dataset.manifest import DatasetManifest
from pipelines.preprocessing.summary import summarize

COUNTS = {"rows": 4, "ok": 1, "filtered": {"silence": 2}, "quarantined": {"unreadable": 1}}
MANIFEST = DatasetManifest(
    kind="latents", rows=1, digest="sha256:d", shards=(), provenance={"counts": COUNTS}
)


def test_counts_and_digest_are_the_manifests_and_work_is_the_runs():
    summary = summarize(MANIFEST, "s3://bucket/dataset", 3, {"ClipDecoder": 2.5})
    assert summary.model_dump() == {
        **COUNTS,
        "dataset": "s3://bucket/dataset",
        "digest": "sha256:d",
        "seconds": 0.0,
        "rows_worked": 3,
        "stage_seconds": {"ClipDecoder": 2.5},
    }


def test_a_run_that_found_its_dataset_finished_did_no_work():
    summary = summarize(MANIFEST, "dataset")
    assert (summary.ok, summary.rows_worked, summary.stage_seconds) == (1, 0, {})
