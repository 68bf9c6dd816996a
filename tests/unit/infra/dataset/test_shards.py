"""Files of rows named after their content, with a digest of every row."""

import hashlib
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.dataset.shards import (
    content_digest,
    read_columns,
    row_digests,
    shard_rows,
    tensor_column,
    write_shard,
    write_table,
)
from infra.errors import DatasetError, MachineError
from infra.storage.object_store import ObjectStore
from tests.worlds.datasets import numbered_rows

MIB = 1 << 20


def test_a_moved_clip_is_the_same_row_and_a_changed_value_another():
    moved, changed = numbered_rows(0, 1), numbered_rows(0, 1)
    moved["clip_uri"] = np.array(["elsewhere.mp4"], dtype=object)
    changed["audio"][0, 25, 4] += 1
    assert row_digests(moved) == row_digests(numbered_rows(0, 1)) != row_digests(changed)


def test_writing_the_same_rows_twice_makes_one_file(tmp_path):
    assert write_shard(tmp_path, numbered_rows(0, 4)) == write_shard(tmp_path, numbered_rows(0, 4))
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_file_holds_its_values_and_nothing_derived_from_them(tmp_path):
    """Its name is the digest of its bytes: statistics and dictionaries differ between writers."""
    record = write_shard(tmp_path, numbered_rows(0, 4))
    group = pq.read_metadata(tmp_path / record.name).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert not any(column.has_dictionary_page or column.is_stats_set for column in columns)
    assert {column.compression for column in columns} == {"ZSTD"}


def test_other_programs_see_the_shape_of_a_tensor(tmp_path):
    record = write_shard(tmp_path, numbered_rows(0, 4))
    schema = pq.read_schema(tmp_path / record.name)
    assert schema.field("video").type == pa.fixed_shape_tensor(pa.float32(), (4, 3, 2, 2))


def test_a_file_is_named_after_its_content(tmp_path):
    record = write_shard(tmp_path, numbered_rows(0, 4), "latents")
    assert record.name.startswith("latents/")
    assert content_digest(record.name) == record.sha256 == ObjectStore(tmp_path).digest(record.name)


def test_a_row_digest_is_that_of_its_names_types_shapes_and_values():
    columns = {
        "row_id": np.array(["é"], dtype=object),
        "clip_uri": np.array(["a.mp4"], dtype=object),
        "height": np.array([64]),
        "video": np.arange(4, dtype=np.float32).reshape(1, 2, 2),
    }
    lines = [b"height 64", rb'row_id "\u00e9"', b"video <f4 (2, 2)"]
    content = b"".join(line + b"\n" for line in lines)
    tensor = np.arange(4, dtype="<f4").tobytes()
    assert row_digests(columns) == [f"sha256:{hashlib.sha256(content + tensor).hexdigest()}"]


@pytest.mark.parametrize(
    ("row_bytes", "groups"), [(MIB, [4, 4, 1]), (5 * MIB, [1] * 9), (MIB + 1, [3, 3, 3])]
)
def test_a_row_group_holds_four_mebibytes_or_a_row(tmp_path, row_bytes, groups):
    values = pa.array([bytes(row_bytes)] * 9, pa.binary(row_bytes))
    record = write_table(ObjectStore(tmp_path), pa.table({"value": values}), "rows")
    metadata = pq.read_metadata(tmp_path / record.name)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == groups
    column = metadata.row_group(0).column(0)
    assert (column.compression, column.statistics) == ("ZSTD", None)
    assert not column.has_dictionary_page


def test_a_record_has_the_size_of_its_file_and_a_table_without_rows_is_one(tmp_path):
    empty = pa.table({"value": pa.array([], pa.int64())})
    record = write_table(ObjectStore(tmp_path), empty, "rows")
    assert (record.rows, record.bytes) == (0, (tmp_path / record.name).stat().st_size)
    assert shard_rows(ObjectStore(tmp_path), record.name, ["value"]) == []


def test_tensors_of_one_shape_are_one_array_and_others_an_array_of_arrays():
    alike = tensor_column([np.zeros((2, 3)), np.ones((2, 3))])
    assert (alike.shape, alike.dtype) == ((2, 2, 3), np.float64)
    mixed = tensor_column([np.zeros((2, 3)), np.ones((3, 2))])
    assert (mixed.shape, mixed.dtype) == ((2,), object)
    assert mixed[1].shape == (3, 2)


def test_plain_columns_come_back_as_rows(tmp_path):
    record = write_shard(tmp_path, numbered_rows(0, 2))
    rows = shard_rows(ObjectStore(tmp_path), record.name, ["clip_uri", "rewritten"])
    assert rows == [
        {"clip_uri": "0.mp4", "rewritten": True},
        {"clip_uri": "1.mp4", "rewritten": False},
    ]


def test_a_damaged_file_is_named_with_a_reason_of_200_characters_at_most(tmp_path):
    store = ObjectStore(tmp_path)
    store.write("rows/a.parquet", b"x")
    with pytest.raises(
        DatasetError, match=r"readable shard rows/a\.parquet in .*; look with"
    ) as caught:
        read_columns(store, "rows/a.parquet", None)
    assert len(str(caught.value).partition(", got: ")[2]) <= 200 + len(
        "; look with `omniforcing dataset verify`, and make the dataset again"
    )


PEAK_OF_WRITING = """
import sys
import numpy as np
from infra.dataset.shards import write_shard

def peak():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10

write_shard(sys.argv[1], {"row_id": np.array(["warm"], object)})
rows = np.frombuffer(np.random.default_rng(0).bytes(64 << 20), np.uint16).reshape(16, -1)
ids = np.array([str(row) for row in range(16)], object)
before = peak()
write_shard(sys.argv[1], {"row_id": ids, "video_states": rows})
print((peak() - before) / rows.nbytes)
"""


@pytest.mark.thorough
def test_a_shard_of_large_rows_is_held_as_what_it_is_and_as_the_file_that_it_becomes(tmp_path):
    written = subprocess.run(
        [sys.executable, "-c", PEAK_OF_WRITING, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.5 < float(written.stdout) < 1.6


def test_a_process_without_room_for_a_file_is_not_told_of_damage(tmp_path):
    store = ObjectStore(tmp_path)
    record = write_shard(tmp_path, numbered_rows(0, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(MachineError, match="Too many open files") as refusal:
            read_columns(store, record.name, None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "make the dataset again" not in str(refusal.value)
    assert "raise the limit" in str(refusal.value)


def test_a_shard_that_is_gone_is_damage_and_a_folder_that_is_gone_is_a_lost_mount(tmp_path):
    store = ObjectStore(tmp_path / "dataset")
    record = write_shard(store.uri, numbered_rows(0, 1))
    store.write("shards/another", b"x")
    store.delete(record.name)
    with pytest.raises(DatasetError, match="No such file"):
        read_columns(store, record.name, None)
    (tmp_path / "dataset").rename(tmp_path / "elsewhere")
    for state in ("none", "an empty one"):
        with pytest.raises(MachineError, match=f"the folder {store.uri} .*, got {state}; mount"):
            read_columns(store, record.name, None)
        (tmp_path / "dataset").mkdir(exist_ok=True)


@pytest.mark.parametrize("compressible", [True, False])
def test_a_flipped_bit_of_a_page_is_an_error(tmp_path, compressible):
    values = np.zeros(4096) if compressible else np.random.default_rng(0).standard_normal(4096)
    record = write_table(ObjectStore(tmp_path), pa.table({"value": values}), "rows")
    path = tmp_path / record.name
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=record.name):
        read_columns(ObjectStore(tmp_path), record.name, ["value"])
