"""Rows of a committed dataset by their number, and the order in which training takes them."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.config import FrameSize
from infra.dataset.latent_table import LatentTable, shuffled_indices
from infra.dataset.manifest import commit
from infra.dataset.shards import row_digests, write_shard, write_table
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from tests.worlds.datasets import numbered_rows


def written(folder, *ranges):
    return commit(folder, "latents", [write_shard(folder, numbered_rows(*r)) for r in ranges], {})


def test_rows_come_back_by_number_in_the_order_of_their_ids(tmp_path):
    written(tmp_path, (5, 9), (0, 5))
    table = LatentTable.open(tmp_path)
    assert table.rows == 9
    batch = table.read([7, 0, 7])
    assert list(batch["row_id"]) == ["row-007", "row-000", "row-007"]
    assert batch["video"].shape == (3, 4, 3, 2, 2)
    assert batch["video"].dtype == np.float32
    assert batch["audio"][:, 0, 0].tolist() == [7, 0, 7]
    assert batch["rewritten"].tolist() == [False, True, False]


def test_rows_are_found_by_their_ids_in_any_order(tmp_path):
    written(tmp_path, (5, 9), (0, 5))
    table = LatentTable.open(tmp_path)
    assert table.find(["row-007", "row-000", "row-007", "row-008"]).tolist() == [7, 0, 7, 8]
    for missing in ("row-0045", "a", "z"):
        with pytest.raises(DatasetError, match=f"expected a row {missing} in {tmp_path}, got none"):
            table.find(["row-000", missing])


def test_only_the_asked_columns_are_read(tmp_path):
    written(tmp_path, (0, 3))
    assert list(LatentTable.open(tmp_path).read([1], columns=["audio"])) == ["audio"]


def test_a_small_cache_gives_the_same_rows(tmp_path):
    written(tmp_path, (0, 4), (4, 8))
    table = LatentTable.open(tmp_path, cache_bytes=1)
    for index in (0, 7, 1, 6):
        assert table.read([index])["video"].max() == index


def joined(folder):
    """Rows whose tensors are in files of their own: two of latents, one of text that two share.

    The last row is larger than the others.
    """
    plain = ("row_id", "clip_uri", "rewritten")
    latents = [
        write_shard(
            folder, {"row_id": keys(*r), "video": numbered_rows(*r)["video"][..., :wide]}, "latents"
        )
        for r, wide in (((0, 2), 1), ((2, 3), 2))
    ]
    text = write_shard(
        folder,
        {"row_id": np.array(["one", "two"], dtype=object), "text": np.eye(2, dtype=np.float32)},
        "text",
    )
    columns = {name: numbered_rows(0, 3)[name].tolist() for name in plain} | {
        "height": [64, 64, 64],
        "width": [32, 32, 64],
        "latents_key": keys(0, 3).tolist(),
        "latents_shard": [latents[0].name] * 2 + [latents[1].name],
        "text_key": ["two", "one", "two"],
        "text_shard": [text.name] * 3,
    }
    columns["row_digest"] = row_digests(columns)
    table = write_table(ObjectStore(folder), pa.table(columns), "rows")
    commit(folder, "latents", [*latents, text], {}, [table])
    return LatentTable.open(folder)


def keys(first, last):
    return np.array([f"key-{number}" for number in range(first, last)], dtype=object)


def test_rows_find_their_tensors_in_other_files(tmp_path):
    table = joined(tmp_path)
    batch = table.read([2, 0, 1])
    assert list(batch["clip_uri"]) == ["2.mp4", "0.mp4", "1.mp4"]
    assert [video[0, 0, 0, 0] for video in batch["video"]] == [2, 0, 1]
    assert [video.shape for video in batch["video"]] == [(4, 3, 2, 2)] + [(4, 3, 2, 1)] * 2
    assert batch["text"].argmax(axis=1).tolist() == [1, 1, 0]
    names = {"row_id", "row_digest", "clip_uri", "rewritten", "height", "width", "video", "text"}
    assert set(batch) == names
    assert list(table.read([1], columns=["text"])) == ["text"]


def test_rows_of_one_size_are_a_table_of_their_own(tmp_path):
    joined(tmp_path)
    small = LatentTable.open(tmp_path, sizes=[FrameSize(height=64, width=32)])
    assert small.rows == 2
    assert small.read([0, 1])["video"].shape == (2, 4, 3, 2, 1)
    assert LatentTable.open(tmp_path, sizes=[FrameSize(height=64, width=64)]).rows == 1
    with pytest.raises(DatasetError, match=r"clips of 9 x 9 in .*, got 64 x 32, 64 x 64; set"):
        LatentTable.open(tmp_path, sizes=[FrameSize(height=9, width=9)])


@pytest.mark.parametrize("folder", ["latents", "text", "rows"])
def test_any_file_that_is_gone_is_named(tmp_path, folder):
    joined(tmp_path)
    lost = next((tmp_path / folder).iterdir())
    lost.unlink()
    with pytest.raises(DatasetError, match=f"{folder}/{lost.name}"):
        LatentTable.open(tmp_path)


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path):
    write_shard(tmp_path, numbered_rows(0, 4))
    with pytest.raises(DatasetError, match=r"got no manifest\.json; make one with"):
        LatentTable.open(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda shard: shard.unlink(), lambda shard: shard.write_bytes(b"x")]
)
def test_a_lost_or_cut_shard_is_named(tmp_path, damage):
    record = written(tmp_path, (0, 4)).shards[0]
    damage(tmp_path / record.name)
    with pytest.raises(DatasetError, match=record.name):
        LatentTable.open(tmp_path)


def test_a_manifest_of_another_schema_is_refused(tmp_path):
    written(tmp_path, (0, 4))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(DatasetError, match="schema version 1"):
        LatentTable.open(tmp_path)


def test_a_dataset_of_no_rows_says_where_to_look(tmp_path):
    commit(tmp_path, "latents", [], {})
    with pytest.raises(DatasetError, match=r"0 rows; outcomes\.parquet"):
        LatentTable.open(tmp_path)


def test_a_row_number_outside_is_an_error(tmp_path):
    written(tmp_path, (0, 4))
    with pytest.raises(IndexError, match=r"0 \.\. 3"):
        LatentTable.open(tmp_path).read([4])


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order():
    drawn = np.concatenate([shuffled_indices(3, step, 4, 10) for step in range(5)])
    first, second = drawn[:10].tolist(), drawn[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_batch_of_a_step_depends_on_seed_and_step_alone():
    later = shuffled_indices(3, 7, 4, 10)
    shuffled_indices(3, 0, 4, 10)
    assert shuffled_indices(3, 7, 4, 10).tolist() == later.tolist()
    assert shuffled_indices(4, 7, 4, 10).tolist() != later.tolist()


def test_a_batch_may_be_larger_than_the_dataset():
    assert sorted(shuffled_indices(0, 0, 6, 3).tolist()) == [0, 0, 1, 1, 2, 2]


def test_a_negative_row_number_is_an_error_and_no_rows_are_none(tmp_path):
    written(tmp_path, (0, 4))
    table = LatentTable.open(tmp_path)
    with pytest.raises(IndexError, match=r"expected row numbers 0 \.\. 3, got \[0, -1\]"):
        table.read([0, -1])
    assert table.read([]) == {}


@pytest.mark.parametrize(
    ("groups_held", "order", "reads"),
    [(3, [0, 1, 2, 0, 1, 2], 3), (2, [0, 1, 0, 2, 0, 1], 4), (0, [0, 0, 1, 0], 3)],
)
def test_row_groups_used_last_are_kept_up_to_the_limit(
    tmp_path, monkeypatch, groups_held, order, reads
):
    manifest = written(tmp_path, (0, 1), (1, 2), (2, 3))
    group_bytes = pq.read_table(tmp_path / manifest.shards[0].name).nbytes
    table = LatentTable.open(tmp_path, cache_bytes=groups_held * group_bytes)
    whole_groups = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(file, group, columns=None):
        whole_groups.extend([group] if columns is None else [])
        return read_row_group(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for number in order:
        assert table.read([number])["video"].max() == number
    assert len(whole_groups) == reads


def test_the_order_of_a_seed_is_the_same_for_ever():
    batches = [shuffled_indices(3, step, 4, 10).tolist() for step in (0, 2, 4)]
    assert batches == [[0, 4, 9, 7], [8, 2, 0, 6], [4, 9, 8, 5]]


def test_rows_and_clips_are_left_out_by_name(tmp_path):
    written(tmp_path, (0, 4), (4, 6))
    table = LatentTable.open(tmp_path, exclude=("row-002", "5.mp4"))
    assert table.read(range(table.rows))["row_id"].tolist() == [f"row-00{n}" for n in (0, 1, 3, 4)]


def test_a_name_to_leave_out_that_no_row_has_is_an_error(tmp_path):
    written(tmp_path, (0, 4))
    with pytest.raises(DatasetError, match=r"data\.exclude .*, got row-9, row-x; name ids"):
        LatentTable.open(tmp_path, exclude=("row-x", "row-001", "row-9"))
    with pytest.raises(DatasetError, match=r"besides those of data\.exclude, got none"):
        LatentTable.open(tmp_path, exclude=[f"{n}.mp4" for n in range(4)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_with_row_clip_and_shard(tmp_path, value):
    rows = numbered_rows(0, 4)
    rows["audio"][2, 25, 4] = value
    shard = write_shard(tmp_path, rows)
    commit(tmp_path, "latents", [shard], {})
    table = LatentTable.open(tmp_path)
    assert table.read([2], ["video"])["video"].max() == 2
    with pytest.raises(DatasetError) as refusal:
        table.read([1, 2, 3])
    said = str(refusal.value)
    assert f"audio of row row-002, clip 2.mp4, got NaN or infinity in {shard.name} of" in said
    assert "--set data.exclude=[row-002]" in said
    spared = LatentTable.open(tmp_path, exclude=["row-002"])
    assert spared.read(range(spared.rows))["audio"].shape[0] == 3


def flipped(path, position, bit):
    """One bit of a file, turned over."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_no_bit_of_a_shard_flips_unnoticed(tmp_path):
    record = written(tmp_path, (0, 3)).shards[0]
    path = tmp_path / record.name
    whole = path.read_bytes()
    before = LatentTable.open(tmp_path).read(range(3))
    silent = 0
    for place in range(100):
        flipped(path, place * len(whole) // 100, place % 8)
        try:
            after = LatentTable.open(tmp_path).read(range(3))
        except DatasetError as error:
            assert record.name in str(error)  # what reads the same is no error
        else:
            silent += 1
            for name, values in before.items():
                np.testing.assert_array_equal(after[name], values)
        path.write_bytes(whole)
    # Who wrote the file, and how the schema is described a second time, is read by nobody.
    assert silent < 40


def test_a_row_that_was_written_otherwise_is_named(tmp_path):
    """As when a flip comes before the page is written, or hits a file without checksums."""
    rows = numbered_rows(0, 2)
    stated = row_digests(rows)
    rows["video"][1, 0, 0, 0, 0] += 1
    arrays = {n: pa.array(list(v)) for n, v in rows.items() if v.ndim == 1}
    arrays["video"] = pa.FixedShapeTensorArray.from_numpy_ndarray(rows["video"])
    arrays["audio"] = pa.FixedShapeTensorArray.from_numpy_ndarray(rows["audio"])
    table = pa.table(arrays | {"row_digest": stated})
    shard = write_table(ObjectStore(tmp_path), table, "shards")
    commit(tmp_path, "latents", [shard], {})
    opened = LatentTable.open(tmp_path)
    assert opened.read([0])["video"].max() == 0
    with pytest.raises(DatasetError, match=rf"{shard.name} .* in row row-001, which was written"):
        opened.read([1])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_no_bit_of_a_table_of_rows_flips_unnoticed(tmp_path, share):
    joined(tmp_path)
    path = next((tmp_path / "rows").iterdir())
    flipped(path, int(share * path.stat().st_size), 3)
    with pytest.raises(DatasetError, match=rf"rows/{path.name}"):
        LatentTable.open(tmp_path)


def test_more_shards_than_files_that_a_process_may_open(tmp_path):
    commit(
        tmp_path,
        "latents",
        [write_shard(tmp_path, numbered_rows(n, n + 1)) for n in range(300)],
        {},
    )
    program = (
        "import resource, sys; from infra.dataset.latent_table import LatentTable;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "table = LatentTable.open(sys.argv[1], cache_bytes=1);"
        "print([int(table.read([n])['video'].max()) for n in [*range(300), 0, 299]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{[*range(300), 0, 299]}\n", done.stderr[-2000:]
