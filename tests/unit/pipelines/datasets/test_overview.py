"""What `show` knows of a dataset: finished, being made, or not there."""

import pytest

from infra.dataset.outcome_table import OUTCOMES
from infra.errors import ConfigError, DatasetError
from infra.leases.output_lease import hold_output
from infra.storage.object_store import ObjectStore
from pipelines.datasets.overview import overview, row_outcomes
from tests.worlds.datasets import THREE, names, preprocessed, surveyed, work_on_rows

BAD = {"a.mp4": ("quarantined", "unreadable"), "b.mp4": ("filtered", "silence")}


def folders(shown):
    return {size.folder: size.files for size in shown.files}


def test_a_finished_dataset_shows_its_rows_files_and_origin(tmp_path):
    manifest = preprocessed(tmp_path, bad=BAD)
    shown = overview(str(tmp_path))
    finished = shown.finished
    assert finished is not None
    assert shown.unfinished is None
    assert (finished.kind, finished.rows, finished.digest) == ("latents", 1, manifest.digest)
    assert finished.counts is not None
    assert finished.counts.model_dump() == {
        "rows": 3,
        "ok": 1,
        "filtered": {"silence": 1},
        "quarantined": {"unreadable": 1},
    }
    assert finished.attempts == {1: 3}
    assert finished.sizes == {"64 x 64": 1}
    assert (finished.clips, finished.preset, finished.commit) == ("clips", "tiny", "0123abc")
    assert finished.codecs == {"video": "sha256:video"}
    assert list(finished.recipes) == ["survey", "latents"]
    assert folders(shown) == {"": 2, "latents": 1, "rows": 1, "text": 1, "log": 3}


def test_bytes_by_folder_are_those_of_the_files(tmp_path):
    preprocessed(tmp_path)
    sizes = {size.folder: size.bytes for size in overview(str(tmp_path)).files}
    assert sum(sizes.values()) == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def test_recipe_digests_change_with_their_part_alone(tmp_path):
    preprocessed(tmp_path / "a")
    preprocessed(tmp_path / "b", settings={"latents": {"size": [128, 128]}})
    a, b = (overview(str(tmp_path / name)).finished for name in "ab")
    assert a is not None
    assert b is not None
    assert a.recipes["survey"] == b.recipes["survey"]
    assert a.recipes["latents"] != b.recipes["latents"]


def test_a_run_that_has_not_ended_shows_what_is_done(tmp_path):
    job = surveyed(tmp_path)
    shown = overview(str(tmp_path))
    assert shown.finished is None
    assert shown.unfinished is not None
    assert (shown.unfinished.listed, shown.unfinished.clips.ok) == (3, 3)
    assert shown.unfinished.windows.rows == 0
    assert shown.unfinished.idle_s < 60
    work_on_rows(job, {"a.mp4": ("filtered", "silence")})
    shown = overview(str(tmp_path))
    assert shown.unfinished is not None
    assert shown.unfinished.windows.filtered == {"silence": 1}
    assert shown.unfinished.captions.ok == 2


def test_a_dataset_that_is_made_anew_shows_both(tmp_path):
    manifest = preprocessed(tmp_path)
    surveyed(tmp_path, THREE | {"d.mp4": "a cat"})
    shown = overview(str(tmp_path))
    assert shown.finished is not None
    assert shown.unfinished is not None
    assert shown.finished.digest == manifest.digest
    assert (shown.unfinished.listed, shown.unfinished.clips.ok) == (4, 4)


def test_a_run_that_holds_the_dataset_is_named(tmp_path):
    preprocessed(tmp_path)
    assert overview(str(tmp_path)).at_work is None
    with hold_output(tmp_path, "preprocess", 60.0):
        assert overview(str(tmp_path)).at_work.startswith("preprocess by ")
    assert overview(str(tmp_path)).at_work is None


def test_rows_are_listed_by_outcome_and_reason(tmp_path):
    preprocessed(tmp_path, bad=BAD | {"c.mp4": ("quarantined", "failed")})
    outcomes = row_outcomes(str(tmp_path), "quarantined")
    assert [(row.clip_uri, row.reason) for row in outcomes.rows] == [
        ("a.mp4", "unreadable"),
        ("c.mp4", "failed"),
    ]
    assert outcomes.rows[0].error == "expected better, got unreadable"
    outcomes = row_outcomes(str(tmp_path), "quarantined", "failed")
    assert [row.clip_uri for row in outcomes.rows] == ["c.mp4"]
    outcomes = row_outcomes(str(tmp_path), "quarantined", limit=1)
    assert (outcomes.found, len(outcomes.rows)) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lost", None), "expected an outcome of ok, filtered, quarantined, got 'lost'"),
        (("filtered", "darkness"), "expected a reason of silence for filtered, got 'darkness'"),
    ],
)
def test_an_unknown_outcome_or_reason_is_refused(tmp_path, arguments, message):
    preprocessed(tmp_path, bad=BAD)
    with pytest.raises(ConfigError, match=message):
        row_outcomes(str(tmp_path), *arguments)


def test_outcomes_that_are_damaged_or_not_written_yet_are_no_empty_list(tmp_path):
    surveyed(tmp_path)
    with pytest.raises(DatasetError, match="whose run has not finished"):
        row_outcomes(str(tmp_path), "ok")
    preprocessed(tmp_path)
    ObjectStore(tmp_path).write(OUTCOMES, b"not parquet")
    with pytest.raises(DatasetError, match="damaged table"):
        row_outcomes(str(tmp_path), "ok")


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match=r"got no manifest\.json"):
        overview(str(tmp_path))
    assert names(tmp_path) == ["notes.txt"]
