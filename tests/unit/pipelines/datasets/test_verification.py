"""A damaged dataset says what is wrong with it, and after a repair preprocessing makes it again."""

import json

import numpy as np
import pytest

from infra.dataset.manifest import MANIFEST, commit, missing_file, read_manifest
from infra.dataset.outcome_table import OUTCOMES
from infra.dataset.shards import read_columns, write_shard, write_table
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.datasets.verification import verify_dataset
from tests.worlds.datasets import THREE, names, preprocessed, surveyed


@pytest.fixture
def dataset(tmp_path):
    preprocessed(tmp_path, bad={"c.mp4": ("filtered", "silence")})
    return tmp_path


def problems(out, **options):
    verification = verify_dataset(str(out), SilentProgress(), **options)
    return {(problem.file.partition("/")[0], problem.kind) for problem in verification.problems}


def spoil(out, name):
    """Change a byte in the middle of a file."""
    path = out / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite_manifest(out, **changes):
    path = out / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only(out, folder):
    (name,) = names(out, folder)
    return name


def test_a_whole_dataset_has_no_problems(dataset):
    verification = verify_dataset(str(dataset), SilentProgress())
    assert (verification.problems, verification.removed, verification.advice) == ((), (), "")
    assert (verification.rows, verification.files) == (2, 3)


def test_windows_that_share_a_caption_and_shards_of_older_versions_are_whole(tmp_path):
    preprocessed(tmp_path, starts=(0.0, 5.0))
    assert problems(tmp_path) == set()
    preprocessed(tmp_path, {"a.mp4": THREE["a.mp4"]}, starts=(0.0, 5.0))
    assert problems(tmp_path) == set()
    preprocessed(tmp_path, bad=dict.fromkeys(THREE, ("filtered", "silence")), starts=(7.0,))
    assert problems(tmp_path) == set()


@pytest.mark.parametrize("folder", ["rows", "latents", "text"])
def test_a_changed_byte_is_found_in_every_file(dataset, folder):
    spoil(dataset, only(dataset, folder))
    assert problems(dataset) == {(folder, "damaged")}
    assert problems(dataset, quick=True) == set()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("folder", ["rows", "latents", "text"])
def test_files_that_are_gone_or_cut_are_found_at_once(dataset, folder, quick):
    name = only(dataset, folder)
    content = (dataset / name).read_bytes()
    (dataset / name).unlink()
    assert problems(dataset, quick=quick) == {(folder, "missing")}
    (dataset / name).write_bytes(content[:-1])
    assert problems(dataset, quick=quick) == {(folder, "damaged")}


def test_a_row_whose_digest_is_not_of_its_content_is_found(tmp_path):
    store = ObjectStore(tmp_path)
    columns = {"row_id": np.array(["x"], dtype=object), "states": np.zeros((1, 2))}
    record = write_shard(tmp_path, columns)
    wrong = read_columns(store, record.name, None)
    wrong = wrong.set_column(
        wrong.column_names.index("row_digest"), "row_digest", [["sha256:another"]]
    )
    store.delete(record.name)
    commit(tmp_path, "trajectories", [write_table(store, wrong, "shards")], {})
    verification = verify_dataset(str(tmp_path), SilentProgress())
    assert [problem.kind for problem in verification.problems] == ["damaged"]
    assert "1 rows with another digest than their content's, as x" in verification.problems[0].what


def test_rows_without_their_tensors_are_counted(tmp_path):
    preprocessed(tmp_path)
    store, manifest = ObjectStore(tmp_path), read_manifest(ObjectStore(tmp_path))
    assert manifest is not None
    text = only(tmp_path, "text")
    fewer = write_table(store, read_columns(store, text, None).slice(0, 1), "text")
    rows = read_columns(store, manifest.tables[0].name, None)
    place = rows.column_names.index("text_shard")
    rows = rows.set_column(place, "text_shard", [[fewer.name] * 3])
    table = write_table(store, rows, "rows")
    shards = [shard for shard in manifest.shards if shard.name != text]
    commit(tmp_path, manifest.kind, shards, manifest.provenance, [table])
    verification = verify_dataset(str(tmp_path), SilentProgress())
    assert [(p.file, p.what) for p in verification.problems] == [
        (fewer.name, "holds tensors, but is not in the manifest")
    ]
    commit(tmp_path, manifest.kind, [*shards, fewer], manifest.provenance, [table])
    verification = verify_dataset(str(tmp_path), SilentProgress())
    assert [p.file for p in verification.problems] == [fewer.name]
    assert "has not the tensors of 2 rows" in verification.problems[0].what


def test_a_manifest_that_says_other_rows_is_found(dataset):
    rewrite_manifest(dataset, rows=5)
    problems = verify_dataset(str(dataset), SilentProgress()).problems
    assert "says 5 rows instead of 2" in [problem.what for problem in problems]
    rewrite_manifest(dataset, rows=2, digest="sha256:another")
    (problem,) = verify_dataset(str(dataset), SilentProgress()).problems
    assert problem.what.startswith("says sha256:another instead of sha256:")


def test_a_row_that_stands_twice_is_found(dataset):
    store, manifest = ObjectStore(dataset), read_manifest(ObjectStore(dataset))
    assert manifest is not None
    rows = read_columns(store, manifest.tables[0].name, None)
    again = write_table(store, rows.slice(0, 1), "rows").model_dump()
    tables = [manifest.tables[0].model_dump(), again]
    rewrite_manifest(dataset, tables=tables)
    whats = [problem.what for problem in verify_dataset(str(dataset), SilentProgress()).problems]
    assert "names 3 rows, of which 1 are repetitions" in whats


def test_outcomes_are_those_of_the_manifest_and_add_up(dataset):
    (dataset / OUTCOMES).unlink()
    assert problems(dataset, quick=True) == {(OUTCOMES, "missing")}
    preprocessed(dataset)
    manifest = json.loads((dataset / MANIFEST).read_text())
    counts = manifest["provenance"]["counts"] | {"ok": 9}
    rewrite_manifest(dataset, provenance=manifest["provenance"] | {"counts": counts})
    assert problems(dataset) == {(MANIFEST, "wrong")}
    spoil(dataset, OUTCOMES)
    assert problems(dataset) == {(OUTCOMES, "damaged")}


def test_without_repair_nothing_is_removed(dataset):
    spoil(dataset, only(dataset, "text"))
    before = names(dataset)
    verification = verify_dataset(str(dataset), SilentProgress())
    assert names(dataset) == before
    assert "--repair" in verification.advice
    assert f"omniforcing preprocess --clips clips --out {dataset}" in verification.advice


@pytest.mark.parametrize("spoiled", ["rows", "latents", "text", "log/windows", OUTCOMES])
def test_after_a_repair_another_run_makes_the_same_dataset(dataset, spoiled):
    bad = {"c.mp4": ("filtered", "silence")}
    name = spoiled if spoiled == OUTCOMES else only(dataset, spoiled)
    before = read_manifest(ObjectStore(dataset))
    assert before is not None
    spoil(dataset, name)
    verification = verify_dataset(str(dataset), SilentProgress(), repair_lease_s=60.0)
    assert name in verification.removed
    assert name not in names(dataset)
    after = read_manifest(ObjectStore(dataset))
    assert (after is None) == (spoiled == OUTCOMES)
    if spoiled != "log/windows":  # what another run would look at says that there is work
        assert after is None or missing_file(ObjectStore(dataset), after) is not None
    assert preprocessed(dataset, bad=bad).digest == before.digest
    assert problems(dataset) == set()


def test_a_damaged_log_does_not_take_the_dataset_away(dataset):
    spoil(dataset, only(dataset, "log/captions"))
    verify_dataset(str(dataset), SilentProgress(), repair_lease_s=60.0)
    assert (dataset / MANIFEST).is_file()
    assert problems(dataset) == set()


def test_a_file_that_cannot_be_read_is_not_removed(dataset):
    name = only(dataset, "text")
    (dataset / name).unlink()
    (dataset / name).symlink_to(dataset / "elsewhere")
    size = (dataset / name).lstat().st_size
    manifest = json.loads((dataset / MANIFEST).read_text())
    for shard in manifest["shards"]:
        shard["bytes"] = size if shard["name"] == name else shard["bytes"]
    rewrite_manifest(dataset, shards=manifest["shards"])
    verification = verify_dataset(str(dataset), SilentProgress(), repair_lease_s=60.0)
    assert [problem.kind for problem in verification.problems] == ["unreadable"]
    assert verification.removed == ()
    assert (dataset / name).is_symlink()
    assert "storage" in verification.advice


def test_a_part_of_the_log_that_cannot_be_read_is_reported_and_stays(dataset):
    part = only(dataset, "log/clips")
    (dataset / part).unlink()
    (dataset / part).symlink_to(dataset / "elsewhere")
    verification = verify_dataset(str(dataset), SilentProgress(), repair_lease_s=60.0)
    assert [(p.file, p.kind) for p in verification.problems] == [(part, "unreadable")]
    assert verification.removed == ()


def test_repaired_trajectories_are_made_by_distill_because_nobody_else_notices(tmp_path):
    columns = {"row_id": np.array(["x"], dtype=object), "states": np.zeros((1, 2))}
    commit(tmp_path, "trajectories", [write_shard(tmp_path, columns)], {})
    assert problems(tmp_path) == set()
    spoil(tmp_path, only(tmp_path, "shards"))
    verification = verify_dataset(str(tmp_path), SilentProgress(), repair_lease_s=60.0)
    assert verification.removed[0] == MANIFEST
    assert "omniforcing distill" in verification.advice
    assert names(tmp_path) == []


def test_a_run_that_has_not_ended_cannot_be_verified(tmp_path):
    surveyed(tmp_path)
    with pytest.raises(DatasetError, match="whose run has not finished"):
        verify_dataset(str(tmp_path), SilentProgress())
