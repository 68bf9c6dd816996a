"""Shards are one checkpoint: all of them are there, and each tensor once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.tensor_source import open_files

INDEX = "model.safetensors.index.json"
FILES = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, file in FILES.items():
        save_file({name: torch.full((2,), ord(name))}, tmp_path / file)
    write_index(tmp_path, FILES)
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", ["", INDEX])
def test_shards_are_found_by_their_folder_or_index(folder: Path, name: str) -> None:
    source = open_files(folder / name)
    assert source.records.keys() == FILES.keys()
    assert source.tensor("b").tolist() == [ord("b")] * 2


def test_shards_are_found_without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    assert open_files(folder).records.keys() == FILES.keys()


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_named(folder: Path, indexed: bool) -> None:
    (folder / FILES["a"]).unlink()
    if not indexed:
        (folder / INDEX).unlink()
    with pytest.raises(WeightsError, match=rf"1 missing: {FILES['a']}"):
        open_files(folder)


def test_an_index_of_other_shards_is_refused(folder: Path) -> None:
    write_index(folder, FILES | {"c": FILES["a"]})
    with pytest.raises(WeightsError, match="1 differences: c"):
        open_files(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../a.safetensors"}, r"got \.\./a\.safetensors"),
        ({}, "got none"),
        (["a"], "expected an index with weight_map"),
    ],
)
def test_an_index_names_files_beside_it(folder: Path, weight_map: object, message: str) -> None:
    write_index(folder, weight_map)
    with pytest.raises(WeightsError, match=message):
        open_files(folder)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    (folder / INDEX).unlink()
    save_file({"a": torch.ones(2)}, folder / "again.safetensors")
    with pytest.raises(WeightsError, match="expected every tensor once, got a in"):
        open_files(folder)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"pickles, which may run code.*model\.pt"):
        open_files(tmp_path)
