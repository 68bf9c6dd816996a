"""A linked checkpoint is the one it is linked to, in each of the formats."""

import os
from pathlib import Path

import pytest
import torch

from infra.runs.checkpoint_store import resolve_model
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.checkpoint_links import link_checkpoint
from omniforcing_model.weights.checkpoint_writing import (
    write_diffusers,
    write_ours,
    write_single_file,
)
from omniforcing_model.weights.safetensors_file import TensorToWrite
from tests.worlds.small_models import random_small_model, small_model_config


def ours(folder, config, tensors):
    write_ours(folder, config, tensors, {"name": "start"})
    return folder


def shards(folder, config, tensors):
    write_ours(folder, config, tensors, {}, sum(tensor.bytes for tensor in tensors) // 3)
    return folder


def diffusers(folder, config, tensors):
    write_diffusers(folder, config, tensors)
    (folder / "vae").mkdir()
    return folder


def part_of_diffusers(folder, config, tensors):
    return diffusers(folder, config, tensors) / "transformer"


def single_file(folder, config, tensors):
    write_single_file(folder / "model.safetensors", config, tensors)
    return folder / "model.safetensors"


@pytest.fixture
def start(tmp_path):
    def of(write):
        config = small_model_config(sinks=0)
        tensors = [
            TensorToWrite(name, torch.float32, tuple(view.shape), lambda view=view: view)
            for name, view in random_small_model(config).file_tensors().items()
        ]
        return write(tmp_path / "start", config, tensors)

    return of


@pytest.mark.parametrize("write", [ours, shards, diffusers, part_of_diffusers, single_file])
def test_a_link_is_the_same_checkpoint_and_has_no_bytes_of_its_own(start, tmp_path, write):
    source, folder = start(write), tmp_path / "link"
    link_checkpoint(source, folder, {"name": "link"})
    assert resolve_model(str(folder)) == folder
    assert folder_digest(folder) == folder_digest(source)
    one, other = load_model(folder), load_model(source)
    assert one.config == other.config
    for name, tensor in one.state_dict().items():
        assert tensor.equal(other.state_dict()[name])
    files = [open_checkpoint(place).source.files for place in (folder, source)]
    assert all(a.samefile(b) for a, b in zip(*files, strict=True))


def test_files_of_another_file_system_are_linked_by_name_or_else_copied(
    start, tmp_path, monkeypatch
):
    source = start(ours)

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    link_checkpoint(source, tmp_path / "by_name", {})
    assert (tmp_path / "by_name" / "model.safetensors").is_symlink()
    monkeypatch.setattr(os, "symlink", refuse)
    link_checkpoint(tmp_path / "by_name", tmp_path / "copy", {})
    copy = tmp_path / "copy" / "model.safetensors"
    assert not copy.is_symlink()
    assert not copy.samefile(source / "model.safetensors")
    assert folder_digest(tmp_path / "copy") == folder_digest(source)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="got nothing"):
        link_checkpoint(tmp_path / "nowhere", tmp_path / "link", {})
    assert not (tmp_path / "link").exists()
