"""The text of trajectories, by the rows of a dataset that they name."""

import shutil

import numpy as np
import pytest

from actors.training.prompt_rows import PromptRows
from infra.dataset.latent_table import LatentTable
from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.errors import DatasetError
from tests.worlds.datasets import preprocessed, texts

SHAPES = {"video_text": (2,), "audio_text": (2,)}


@pytest.fixture
def dataset(tmp_path):
    """Three rows with their text in files of its own, as preprocessing leaves them."""
    preprocessed(tmp_path / "dataset")
    return LatentTable.open(tmp_path / "dataset")


@pytest.fixture
def trajectories(tmp_path, dataset):
    """Of the rows 2, 0 and 2 again."""
    numbers = [2, 0, 2]
    columns = {
        "row_id": texts("abc"),
        "prompt_row": dataset.read(numbers, ["row_id"])["row_id"],
        "prompt_digest": texts(dataset.text_digests(numbers)),
    }
    folder = tmp_path / "run" / "trajectories"
    place = {"role": "clips", "kind": "dataset", "name": "dataset", "digest": dataset.digest}
    inputs = [place | {"uri": "../../dataset"}]
    commit(folder, "trajectories", [write_shard(folder, columns)], {"inputs": inputs})
    return LatentTable.open(folder)


def test_each_trajectory_gets_the_features_of_its_row_in_order(trajectories, dataset):
    named = trajectories.read([0, 1, 2], ["prompt_row", "prompt_digest"])
    features = PromptRows(trajectories, None, SHAPES).read(named)
    expected = dataset.read([2, 0, 2], list(SHAPES))
    for name in SHAPES:
        np.testing.assert_array_equal(features[name], expected[name])
    assert not np.array_equal(features["video_text"][0], features["video_text"][1])


def test_a_dataset_that_was_moved_is_read_where_it_is(trajectories, dataset, tmp_path):
    expected = dataset.read([2], list(SHAPES))
    shutil.move(tmp_path / "dataset", tmp_path / "elsewhere")
    named = trajectories.read([0], ["prompt_row", "prompt_digest"])
    with pytest.raises(DatasetError, match="dataset"):
        PromptRows(trajectories, None, SHAPES)
    features = PromptRows(trajectories, str(tmp_path / "elsewhere"), SHAPES).read(named)
    np.testing.assert_array_equal(features["audio_text"], expected["audio_text"])


def test_a_row_whose_text_has_changed_is_refused_by_name(trajectories):
    named = trajectories.read([0], ["prompt_row", "prompt_digest"])
    named["prompt_digest"][0] = "sha256:other"
    with pytest.raises(DatasetError, match=r"text sha256:other of row .*clip c.mp4.*, got sha256:"):
        PromptRows(trajectories, None, SHAPES).read(named)


def test_a_row_that_is_gone_is_named(trajectories):
    named = trajectories.read([0], ["prompt_row", "prompt_digest"])
    named["prompt_row"][0] = "zz"
    with pytest.raises(DatasetError, match=r"expected a row zz in .*dataset, got none"):
        PromptRows(trajectories, None, SHAPES).read(named)


def test_text_of_another_shape_is_refused(trajectories):
    named = trajectories.read([0], ["prompt_row", "prompt_digest"])
    with pytest.raises(DatasetError, match=r"video_text of row .*float32 of \(3,\)"):
        PromptRows(trajectories, None, SHAPES | {"video_text": (3,)}).read(named)


def test_trajectories_that_name_no_dataset_are_refused(tmp_path):
    commit(tmp_path, "trajectories", [write_shard(tmp_path, {"row_id": texts("a")})], {})
    with pytest.raises(DatasetError, match="which dataset they were made of"):
        PromptRows(LatentTable.open(tmp_path), None, SHAPES)
