"""Listing, plans and row tables in parts, and pieces of them."""

import hashlib

from infra.dataset.shards import read_columns
from infra.leases.fence import Fence
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clips import ListedClip
from pipelines.preprocessing.row_tables import (
    Listing,
    RowJob,
    delete_work,
    list_source_clips,
    plan_rows,
    plan_survey,
    read_piece,
    write_listing,
)
from tests.worlds.datasets import RECIPES, RULES, names, preprocessed, surveyed


def clips(count):
    return (ListedClip(f"{n:06d}.mp4", 9, 1, -1, "a dog", "", "") for n in range(count))


def rows_in(store, parts):
    return [read_columns(store, name, None).num_rows for name in parts]


def test_a_listing_of_50001_clips_has_two_parts_and_the_digest_of_source_and_parts(tmp_path):
    store = ObjectStore(tmp_path)
    listing = write_listing(clips(50_001), "s3://clips", store)
    assert rows_in(store, listing.parts) == [50_000, 1]
    assert listing.rows == 50_001
    content = "s3://clips" + "".join(store.digest(part) for part in listing.parts)
    assert listing.digest == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def test_the_same_clips_from_elsewhere_are_another_listing(tmp_path):
    store = ObjectStore(tmp_path)
    here, there = (write_listing(clips(2), source, store) for source in ("here", "there"))
    assert here.parts == there.parts
    assert here.digest != there.digest


def test_a_folder_is_listed_into_the_dataset(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"x")
    out = ObjectStore(tmp_path / "dataset")
    listing = list_source_clips(str(tmp_path / "clips"), None, out.uri)
    (row,) = read_columns(out, listing.parts[0], None).to_pylist()
    assert (row["clip_uri"], row["clip_bytes"], row["problem"]) == ("a.mp4", 1, "no_caption")


def test_a_plan_of_2049_clips_has_two_parts(tmp_path):
    store = ObjectStore(tmp_path)
    job = RowJob(store.uri, write_listing(clips(2049), "c", store), RECIPES, RULES)
    planned = plan_survey(job, redrive=False)
    assert planned.rows == 2049
    assert rows_in(store, planned.parts) == [2048, 1]
    (last,) = read_columns(store, planned.parts[1], None).to_pylist()
    assert last["clip_uri"] == "002048.mp4"


def test_rows_that_need_latents_or_text_are_planned(tmp_path):
    preprocessed(tmp_path)
    again = plan_rows(surveyed(tmp_path), redrive=False)
    assert again == ((), 0)
    job = surveyed(tmp_path, recipes=RECIPES._replace(text="another"))
    planned = plan_rows(job, redrive=False)
    rows = read_columns(ObjectStore(tmp_path), planned.parts[0], None).to_pylist()
    assert planned.rows == 3
    assert [(row["needs_latents"], row["needs_text"]) for row in rows] == [(False, True)] * 3


def test_a_piece_is_some_rows_of_a_part(tmp_path):
    store = ObjectStore(tmp_path)
    listing = write_listing(clips(9), "c", store)
    piece = read_piece({"part": [listing.parts[0]], "first": [3], "rows": [2]}, str(tmp_path))
    assert piece["clip_uri"].to_pylist() == ["000003.mp4", "000004.mp4"]


def test_an_attempt_that_is_late_takes_nothing_from_the_one_that_has_replaced_it(tmp_path):
    store = ObjectStore(tmp_path)
    fences = [Fence(store.uri, attempt) for attempt in (8, 9, 10)]
    parts = [write_listing(clips(3), "c", store, fence).parts for fence in fences]
    (tmp_path / "work" / "listing").mkdir()
    (tmp_path / "work" / "listing" / "of a version before").write_bytes(b"")
    delete_work(store, fences[1])
    assert names(tmp_path, "work") == sorted(parts[2])
    plan_survey(RowJob(store.uri, Listing(parts[2], 3, "c"), RECIPES, RULES, fences[2]), False)
    delete_work(store, fences[2])
    assert not (tmp_path / "work").exists()
    delete_work(store, fences[2])


def test_a_commit_names_the_files_of_its_rows_with_counts_and_leaves_no_work(tmp_path):
    manifest = preprocessed(tmp_path, bad={"b.mp4": ("filtered", "silence")})
    assert (manifest.rows, manifest.kind) == (2, "latents")
    assert manifest.provenance["counts"] == {
        "rows": 3,
        "ok": 2,
        "filtered": {"silence": 1},
        "quarantined": {},
    }
    store = ObjectStore(tmp_path)
    assert manifest.provenance["outcomes"] == {
        "name": "outcomes.parquet",
        "sha256": store.digest("outcomes.parquet"),
    }
    assert not (tmp_path / "work").exists()
    for record in manifest.files:
        content = (tmp_path / record.name).read_bytes()
        assert record.bytes == len(content)
        assert record.sha256 == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert [(file.name.partition("/")[0], file.rows) for file in manifest.files] == [
        ("rows", 2),
        ("latents", 2),
        ("text", 2),
    ]
    (table,) = manifest.tables
    ids = read_columns(store, table.name, ["row_id"])["row_id"].to_pylist()
    assert ids == sorted(ids)
