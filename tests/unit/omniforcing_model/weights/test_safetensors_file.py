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
    TensorFile,
    TensorRecord,
    TensorToWrite,
    bytes_of,
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
    opened = TensorFile(file)
    assert opened.metadata == {"format": "pt"}
    assert list(opened.tensors) == ["step", "scale", "b.weight", "sinks", "a.bias", "a.weight"]
    assert opened.tensors["b.weight"] == TensorRecord(file, "F32", (4, 3))
    for name in opened.tensors:
        tensor = opened.tensor(name)
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_rows_are_read_without_the_others(file: Path) -> None:
    opened = TensorFile(file)
    assert torch.equal(opened.tensor("b.weight", slice(1, 3)), TENSORS["b.weight"][1:3])
    assert opened.tensor("sinks", slice(0, 0)).shape == (0, 5)


def test_the_bytes_of_a_tensor_are_those_of_the_file(file: Path) -> None:
    content, opened = file.read_bytes(), TensorFile(file)
    for name in TENSORS:
        assert bytes(bytes_of(opened.tensor(name))) in content
    assert bytes(bytes_of(opened.tensor("step"))) == b"\x07" + 7 * b"\x00"


def test_a_file_without_notes_has_none(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert TensorFile(tmp_path / "x.safetensors").metadata == {}


def test_a_file_that_shrinks_while_it_is_read_is_an_error(file: Path) -> None:
    opened, size = TensorFile(file), file.stat().st_size
    with file.open("r+b") as content:
        content.truncate(size - 1)
    with pytest.raises(
        WeightsError, match=f"expected {size} bytes in .*, got {size - 1}: the file shrank"
    ):
        opened.tensor("step")


def test_a_dtype_that_torch_has_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quantised.safetensors"
    header = b'{"x":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}   '
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00\x00")
    opened = TensorFile(path)
    assert opened.tensors["x"] == TensorRecord(path, "F4", (4,))
    with pytest.raises(WeightsError, match=r"expected x in one of BOOL, .*, got F4 in .*quantised"):
        opened.tensor("x")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected a readable file at .*nowhere"):
        TensorFile(tmp_path / "nowhere.safetensors")


def test_a_header_may_be_as_long_as_a_pickles_first_bytes_say(tmp_path: Path) -> None:
    for padding in range(1200):  # the length then begins with the bytes 80 04
        path = tmp_path / "long.safetensors"
        save_file({"x": torch.ones(1)}, path, {"note": "x" * padding})
        if path.read_bytes().startswith(b"\x80\x04"):
            break
    assert path.read_bytes().startswith(b"\x80\x04")
    assert torch.equal(TensorFile(path).tensor("x"), torch.ones(1))


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
    ("damage", "reason"),
    [
        (cut, "cut off or changed"),
        (cut_header, "cut off"),
        (empty, "expected a safetensors file, got 0 bytes"),
        (torch_pickle, "a pickle archive"),
        (plain_pickle, "a pickle"),
        (pointer, "a Git LFS pointer"),
        (other_offsets, "invalid shape, data type, or offset"),
    ],
)
def test_what_is_no_whole_file_is_refused(file: Path, damage, reason: str) -> None:
    damage(file)
    with pytest.raises(WeightsError, match=reason):
        TensorFile(file)


def test_a_file_that_could_not_be_finished_does_not_appear(tmp_path: Path) -> None:
    wrong = TensorToWrite("x", torch.float32, (3,), partial(itself, torch.ones(2)))
    with pytest.raises(WeightsError, match=r"expected x to be \(3,\), got \(2,\)"):
        write_file(tmp_path / "x.safetensors", [wrong])
    assert list(tmp_path.iterdir()) == []
