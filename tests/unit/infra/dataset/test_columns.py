"""Columns with their types, and which of them rows, plans and logs have."""

import pyarrow as pa

from infra.dataset.columns import (
    DATASET_ROW,
    LISTED_CLIP,
    NOT_CONTENT,
    ROW_PLAN,
    SURVEY_PLAN,
    TENSOR_PLACES,
    Column,
    schema,
)
from pipelines.preprocessing.listing.clips import ListedClip


def test_columns_are_strings_unless_their_type_is_another():
    types = {name: schema([name]).field(name).type for name in ("clip_uri", "start_s", "attempts")}
    assert types == {"clip_uri": pa.string(), "start_s": pa.float64(), "attempts": pa.int64()}
    assert schema(["starts_s"]).field(0).type == pa.list_(pa.float64())
    assert schema(["rewritten"]).field(0).type == pa.bool_()


def test_a_listed_clip_has_the_columns_of_its_table_in_their_order():
    assert ListedClip._fields == LISTED_CLIP


def test_no_column_has_two_names():
    names = [value for key, value in vars(Column).items() if not key.startswith("_")]
    assert len(names) == len(set(names))


def test_no_table_has_a_column_twice():
    for columns in (LISTED_CLIP, SURVEY_PLAN, ROW_PLAN, DATASET_ROW):
        assert len(columns) == len(set(columns))


def test_a_moved_clip_or_file_of_tensors_is_no_other_content():
    assert set(NOT_CONTENT) == {"clip_uri", "row_digest", "latents_shard", "text_shard"}
    assert [tuple(place) for place in TENSOR_PLACES] == [
        ("latents_shard", "latents_key", "latents_digest"),
        ("text_shard", "text_key", "text_digest"),
    ]
