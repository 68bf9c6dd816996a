"""Safetensors files, read lazily and written one tensor at a time.

Reading is the library's: it maps a file, and a tensor or some of its rows are read when they are
used. The library's writer takes all tensors at once; here one is in memory at a time, so that a
file of 40 GB is written in little. The format: eight bytes with the length of a JSON header, the
header, the bytes of all tensors.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omniforcing_model.errors import WeightsError

SUFFIX = ".safetensors"
DTYPES = {  # in the library's order: narrow ones first
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
DTYPE_ORDER = {dtype: number for number, dtype in enumerate(DTYPE_NAMES)}
METADATA = "__metadata__"
LENGTH_BYTES = 8
MAPPED_BYTES = 1 << 28  # that are read of a mapping before the file is mapped anew
# What often lies in the place of weights, by its first bytes.
OTHER_FORMATS = {
    b"PK\x03\x04": "a pickle archive (.pt, .bin), which may run code when it is read",
    b"\x80\x02": "a pickle, which may run code when it is read",
    b"\x80\x04": "a pickle, which may run code when it is read",
    b"version https": "a Git LFS pointer instead of the file itself",
    b"<!": "a web page",
    b"<h": "a web page",
    b"GGUF": "a GGUF file",
}


class TensorRecord(NamedTuple):
    """A tensor of the file `path`; `dtype` in the format's spelling."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


class TensorFile:
    """An open file: its tensors by name, in their order, and its free text.

    WeightsError when it is opened if it is not safetensors, or was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored, self._bytes = _open(path)
        self._read_bytes = 0
        self.metadata: dict[str, str] = self._stored.metadata() or {}
        self.tensors = {name: self._record(name) for name in self._stored.offset_keys()}

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor on the CPU, or its `rows` of the first axis; no other bytes are read.

        WeightsError for a dtype that torch does not have, and for a file that has become shorter.
        """
        record = self.tensors[name]
        if record.dtype not in DTYPES:
            raise WeightsError(
                f"expected {name} in one of {', '.join(DTYPES)}, got {record.dtype} in {self.path};"
                " take a checkpoint that is not quantised"
            )
        # Where the file has become shorter, touching the mapping would kill the process.
        size = self.path.stat().st_size
        if size < self._bytes:
            raise WeightsError(
                f"expected {self._bytes:,} bytes in {self.path}, got {size:,}: the file shrank"
                " while it was read; copy it again"
            )
        stored = self._stored
        tensor: Tensor = stored.get_tensor(name) if rows is None else stored.get_slice(name)[rows]
        self._read_bytes += tensor.nbytes
        if self._read_bytes >= MAPPED_BYTES:
            # What was read of a mapping counts as this process's memory until the mapping ends:
            # with the last tensor of it that is in use.
            self._stored, self._bytes = _open(self.path)
            self._read_bytes = 0
        return tensor

    def _record(self, name: str) -> TensorRecord:
        stored = self._stored.get_slice(name)
        return TensorRecord(self.path, stored.get_dtype(), tuple(stored.get_shape()))


class TensorToWrite(NamedTuple):
    """A tensor that `read` gives when its turn comes, in any dtype and on any device."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(
    path: Path, tensors: Iterable[TensorToWrite], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file that appears only when it is complete; one tensor is in memory at a time.

    Tensors of wide dtypes come first and then by name, as the library orders them: a file is the
    same whoever wrote it.
    """
    ordered = sorted(tensors, key=lambda tensor: (-DTYPE_ORDER[tensor.dtype], tensor.name))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    position = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.bytes],
        }
        position += tensor.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            for tensor in ordered:
                _write_tensor(file, tensor)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_tensor(file: BinaryIO, tensor: TensorToWrite) -> None:
    value = tensor.read().detach().to("cpu", tensor.dtype).contiguous()
    if tuple(value.shape) != tensor.shape:
        raise WeightsError(
            f"expected {tensor.name} to be {tensor.shape}, got {tuple(value.shape)}; announce the"
            " shape that is written"
        )
    if value.numel():
        file.write(bytes_of(value))


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, its bytes in the order of the file."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _open(path: Path) -> tuple[Any, int]:
    """The file, mapped, and its size."""
    try:
        size = path.stat().st_size
        _refuse_other_formats(path)
        return safe_open(path, framework="pt"), size
    except OSError as error:
        raise WeightsError(f"expected a readable file at {path}, got: {error}") from error
    except SafetensorError as error:
        raise WeightsError(
            f"expected a safetensors file, got {size:,} bytes at {path}: {error}; it is another"
            " format, or was cut off or changed: copy it again"
        ) from error


def _refuse_other_formats(path: Path) -> None:
    """WeightsError that names what lies in the place of weights, where its first bytes say it."""
    with path.open("rb") as file:
        first = file.read(16)
    # A header's length may begin with any bytes, also with a pickle's; but then the header begins.
    if first[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{":
        return
    for mark, kind in OTHER_FORMATS.items():
        if first.startswith(mark):
            raise WeightsError(
                f"expected a safetensors file, got {kind}: {path}; only safetensors are read"
            )
