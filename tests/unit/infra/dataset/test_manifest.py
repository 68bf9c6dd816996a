"""The manifest digests the rows of all files, and notices a file that is gone or cut."""

import hashlib

import pyarrow as pa
import pytest

from infra.dataset.manifest import commit, dataset_digest, missing_file, read_manifest
from infra.dataset.shards import write_shard
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from tests.worlds.datasets import numbered_rows


def written(folder, *ranges):
    return commit(folder, "latents", [write_shard(folder, numbered_rows(*r)) for r in ranges], {})


def test_the_digest_does_not_depend_on_order_or_on_the_cut_into_shards(tmp_path):
    one = written(tmp_path / "one", (0, 8))
    three = written(tmp_path / "three", (6, 8), (0, 2), (2, 6))
    fewer = written(tmp_path / "fewer", (0, 7))
    assert one.digest == three.digest != fewer.digest


def test_a_row_in_two_shards_is_refused(tmp_path):
    shards = [write_shard(tmp_path, numbered_rows(*r)) for r in ((0, 4), (3, 6))]
    with pytest.raises(DatasetError, match="different ids"):
        commit(tmp_path, "latents", shards, {})


def test_the_digest_is_that_of_the_sorted_row_digests_a_line_each():
    text = b"a\nb\nc"
    expected = f"sha256:{hashlib.sha256(text).hexdigest()}"
    assert dataset_digest(pa.chunked_array([["c"], ["b", "a"]])) == expected
    assert dataset_digest(pa.chunked_array([["a", "b", "c"]])) == expected


def test_repeated_ids_are_counted_with_all_rows(tmp_path):
    shards = [write_shard(tmp_path, numbered_rows(*r)) for r in ((0, 4), (3, 6))]
    with pytest.raises(DatasetError, match="expected 7 rows with different ids"):
        commit(tmp_path, "latents", shards, {})


def test_files_stand_by_name_and_the_manifest_reads_back(tmp_path):
    manifest = written(tmp_path, (0, 2), (2, 3), (3, 7))
    names = [shard.name for shard in manifest.shards]
    assert names == sorted(names)
    assert (manifest.rows, manifest.schema_version) == (7, 1)
    assert read_manifest(ObjectStore(tmp_path)) == manifest
    assert read_manifest(ObjectStore(tmp_path / "elsewhere")) is None


def test_the_manifest_is_a_text_for_people_too(tmp_path):
    commit(tmp_path, "latents", [], {"preset": "tiny"})
    lines = (tmp_path / "manifest.json").read_text().split("\n")
    assert lines[:2] == ["{", '  "schema_version": 1,']
    assert lines[-2:] == ["}", ""]


def test_the_first_file_that_is_gone_or_of_another_size_is_named(tmp_path):
    manifest = written(tmp_path, (0, 2), (2, 3))
    store = ObjectStore(tmp_path)
    assert missing_file(store, manifest) is None
    first, second = manifest.shards
    store.write(second.name, b"x")
    problem = f"1 bytes instead of {second.bytes} in {second.name}"
    assert missing_file(store, manifest) == problem
    store.delete(first.name)
    assert missing_file(store, manifest) == f"no {first.name}"


def test_a_damaged_manifest_says_where(tmp_path):
    store = ObjectStore(tmp_path)
    store.write("manifest.json", b"{")
    with pytest.raises(DatasetError, match=r"schema version 1 in .*, got the file: "):
        read_manifest(store)
    store.write("manifest.json", b'{"kind": 3}')
    with pytest.raises(DatasetError, match=r"got kind: .*; make the dataset again"):
        read_manifest(store)
