"""Two datasets are told apart by their rows, and by the settings that made them."""

import numpy as np
import pytest

from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.errors import ConfigError, DatasetError
from pipelines.datasets.difference import difference
from tests.worlds.datasets import RECIPES, THREE, preprocessed, surveyed


@pytest.fixture
def first(tmp_path):
    preprocessed(tmp_path / "a")
    return str(tmp_path / "a")


def compared(first, tmp_path, limit=20, **changes):
    preprocessed(tmp_path / "b", **changes)
    return difference(first, str(tmp_path / "b"), limit)


def changed(diff):
    return {row.clip_uri: row.differs for row in diff.rows_changed}


def test_the_same_clips_and_recipe_give_no_difference(first, tmp_path):
    diff = compared(first, tmp_path)
    assert diff.same
    assert (diff.unchanged, diff.changed, diff.only_in_a, diff.only_in_b) == (3, 0, 0, 0)
    assert diff.recipe == ()


def test_rows_that_one_dataset_lacks_are_named(first, tmp_path):
    diff = compared(first, tmp_path, captions={"b.mp4": THREE["b.mp4"], "d.mp4": "a cat"})
    assert not diff.same
    assert [row.clip_uri for row in diff.rows_only_in_a] == ["a.mp4", "c.mp4"]
    assert [row.clip_uri for row in diff.rows_only_in_b] == ["d.mp4"]
    assert (diff.unchanged, diff.only_in_a, diff.only_in_b, diff.changed) == (1, 2, 1, 0)


def test_a_row_that_is_refused_in_the_other_dataset_is_missing_there(first, tmp_path):
    diff = compared(first, tmp_path, bad={"b.mp4": ("filtered", "silence")})
    assert [row.clip_uri for row in diff.rows_only_in_a] == ["b.mp4"]


def test_a_row_with_another_caption_is_changed_in_caption_and_text(first, tmp_path):
    diff = compared(first, tmp_path, captions=THREE | {"b.mp4": "hail on a roof"})
    assert changed(diff) == {"b.mp4": ("caption", "caption_raw", "text")}
    assert (diff.unchanged, diff.only_in_a, diff.only_in_b) == (2, 0, 0)
    row = diff.rows_changed[0]
    assert row.row_id_a != row.row_id_b


def test_other_latents_are_told_from_other_text_and_by_the_recipe(first, tmp_path):
    settings = {"latents": {"size": [128, 128]}}
    diff = compared(first, tmp_path, recipes=RECIPES._replace(latents="larger"), settings=settings)
    assert set(changed(diff).values()) == {("latents",)}
    assert diff.changed_parts == {"latents": 3}
    assert [(each.key, each.a, each.b) for each in diff.recipe] == [
        ("latents.size", "[64, 64]", "[128, 128]")
    ]
    assert diff.same_id == 0
    preprocessed(tmp_path / "c", recipes=RECIPES._replace(text="wordier"))
    assert difference(first, str(tmp_path / "c")).changed_parts == {"text": 3}


def test_a_moved_clip_is_no_difference(first, tmp_path):
    moved = {f"moved/{name}": caption for name, caption in THREE.items()}
    diff = compared(first, tmp_path, captions=moved)
    assert diff.same
    assert diff.unchanged == 3


def test_the_limit_shortens_lists_and_not_counts(first, tmp_path):
    recipes = RECIPES._replace(text="wordier")
    diff = compared(first, tmp_path, limit=1, recipes=recipes)
    assert (len(diff.rows_changed), diff.changed) == (1, 3)


def test_datasets_whose_rows_hold_tensors_are_compared_by_id(tmp_path):
    for place, value in (("a", 0.0), ("b", 1.0)):
        columns = {
            "row_id": np.array(["x", "y", place], dtype=object),
            "states": np.array([[0.0], [value], [0.0]]),
        }
        commit(tmp_path / place, "trajectories", [write_shard(tmp_path / place, columns)], {})
    diff = difference(str(tmp_path / "a"), str(tmp_path / "b"))
    assert [(row.row_id_a, row.differs) for row in diff.rows_changed] == [("y", ("content",))]
    assert [row.row_id for row in diff.rows_only_in_a] == ["a"]
    assert [row.row_id for row in diff.rows_only_in_b] == ["b"]
    assert diff.unchanged == 1


def test_an_empty_dataset_differs_in_every_row(first, tmp_path):
    nothing = dict.fromkeys(THREE, ("filtered", "silence"))
    diff = compared(first, tmp_path, bad=nothing)
    assert (diff.only_in_a, diff.only_in_b, diff.unchanged) == (3, 0, 0)


def test_what_cannot_be_compared_is_refused(first, tmp_path):
    surveyed(tmp_path / "b")
    with pytest.raises(DatasetError, match="whose run has not finished"):
        difference(first, str(tmp_path / "b"))
    commit(tmp_path / "c", "trajectories", [], {})
    with pytest.raises(ConfigError, match="expected two datasets of one kind"):
        difference(first, str(tmp_path / "c"))
