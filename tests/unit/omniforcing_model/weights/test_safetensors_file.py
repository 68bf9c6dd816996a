"""Files are those of the safetensors library, byte for byte, and damaged ones say what they are."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.safetensors_file import (
    TensorToWrite,
    read_header,
    read_tensor,
    write_file,
)

TENSORS = {
    "b.weight": torch.arange(12.0).reshape(4, 3),
    "a.bias": torch.arange(3.0).to(torch.bfloat16),
    "a.weight": torch.arange(6.0).reshape(2, 3).half(),
    "sinks": torch.zeros(0, 5),
    "scale": torch.tensor(2.5, dtype=torch.float64),
    "step": torch.tensor([7]),
}


def itself(tensor: Tensor) -> Tensor:
    return tensor


def to_write(tensors: dict[str, Tensor]) -> list[TensorToWrite]:
    return [
        TensorToWrite(name, tensor.dtype, tuple(tensor.shape), partial(itself, tensor))
        for name, tensor in tensors.items()
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path


def test_a_file_is_the_librarys_byte_for_byte(file: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "ours.safetensors", to_write(TENSORS), {"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == file.read_bytes()


def test_tensors_are_read_as_they_were_written(file: Path) -> None:
    header = read_header(file)
    assert header.metadata == {"format": "pt"}
    assert header.tensors.keys() == TENSORS.keys()
    for name, record in header.tensors.items():
        tensor = read_tensor(name, record)
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_rows_are_read_without_the_others(file: Path) -> None:
    record = read_header(file).tensors["b.weight"]
    assert torch.equal(read_tensor("b.weight", record, slice(1, 3)), TENSORS["b.weight"][1:3])


def test_a_header_may_be_as_long_as_a_pickles_first_bytes_say(tmp_path: Path) -> None:
    for padding in range(1200):  # the length then begins with the bytes 80 04
        path = tmp_path / "long.safetensors"
        save_file({"x": torch.ones(1)}, path, {"note": "x" * padding})
        if path.read_bytes().startswith(b"\x80\x04"):
            break
    assert path.read_bytes().startswith(b"\x80\x04")
    assert torch.equal(read_tensor("x", read_header(path).tensors["x"]), torch.ones(1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def torch_pickle(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 40000000\n")


def other_offsets(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"[4,3]", b"[4,4]"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "cut off or changed"),
        (cut_header, "cut off"),
        (empty, "expected a safetensors file, got 0 bytes"),
        (torch_pickle, "a pickle archive"),
        (plain_pickle, "a pickle"),
        (pointer, "a Git LFS pointer"),
        (other_offsets, r"bytes .* for \(4, 4\) in F32"),
    ],
)
def test_what_is_no_whole_file_is_refused(file: Path, damage, said: str) -> None:
    damage(file)
    with pytest.raises(WeightsError, match=said):
        read_header(file)


def test_a_file_that_could_not_be_finished_does_not_appear(tmp_path: Path) -> None:
    wrong = TensorToWrite("x", torch.float32, (3,), partial(itself, torch.ones(2)))
    with pytest.raises(WeightsError, match=r"expected x to be \(3,\), got \(2,\)"):
        write_file(tmp_path / "x.safetensors", [wrong])
    assert list(tmp_path.iterdir()) == []
