"""Safetensors files read and written one tensor at a time.

The safetensors library maps or takes whole files; here a file of 40 GB is read and written with one
tensor in memory, and a slice of rows is read without the rest. The format: eight bytes with the
length of a JSON header, the header, the bytes of all tensors.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
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
LARGEST_HEADER = 100_000_000  # the library's own limit
# First bytes of what is often found in the place of weights.
STRANGERS = {
    b"PK\x03\x04": "a pickle archive (.pt, .bin), which may run code when it is read",
    b"\x80\x02": "a pickle, which may run code when it is read",
    b"\x80\x04": "a pickle, which may run code when it is read",
    b"version https": "a Git LFS pointer instead of the file itself",
    b"<!": "a web page",
    b"<h": "a web page",
    b"GGUF": "a GGUF file",
}


class TensorRecord(NamedTuple):
    """Where a tensor lies: bytes `start` to `end` of `path`; `dtype` in the format's spelling."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class FileHeader(NamedTuple):
    """The tensors of a file by name, and its free text."""

    tensors: dict[str, TensorRecord]
    metadata: dict[str, str]


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


def read_header(path: Path) -> FileHeader:
    """Names, dtypes and shapes in a file, without its data.

    Raises:
        WeightsError: the file is not safetensors, or was cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            values, begin = _header_values(path, file, size)
    except OSError as error:
        raise WeightsError(f"expected a readable file at {path}, got: {error}") from error
    metadata = values.pop(METADATA, {})
    try:
        tensors = {name: _record(path, value, begin) for name, value in values.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"expected dtype, shape and data_offsets of every tensor in {path}, got {error!r};"
            " write the file again"
        ) from error
    end = max((record.end for record in tensors.values()), default=begin)
    if end != size:
        raise WeightsError(
            f"expected {end:,} bytes in {path}, got {size:,}: it was cut off or changed; copy it"
            " again"
        )
    return FileHeader(tensors, {str(key): str(value) for key, value in metadata.items()})


def read_tensor(name: str, record: TensorRecord, rows: slice | None = None) -> Tensor:
    """The tensor on the processor, or its `rows` of the first axis; reads no other bytes."""
    dtype = DTYPES.get(record.dtype)
    if dtype is None:
        raise WeightsError(
            f"expected {name} in one of {', '.join(DTYPES)}, got {record.dtype} in {record.path};"
            " take a checkpoint that is not quantised"
        )
    shape, start = record.shape, record.start
    if rows is not None:
        first, stop, _ = rows.indices(shape[0])
        start += first * (record.end - record.start) // max(shape[0], 1)
        shape = (max(stop - first, 0), *shape[1:])
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        with record.path.open("rb") as file:
            file.seek(start)
            wanted = tensor.numel() * dtype.itemsize
            if file.readinto(_bytes_of(tensor)) != wanted:
                raise WeightsError(
                    f"expected {wanted:,} bytes of {name} in {record.path}, got fewer: the file"
                    " shrank while it was read; copy it again"
                )
    return tensor


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
        file.write(_bytes_of(value))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _header_values(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header as JSON, and where the data begin."""
    first = file.read(16)
    # A length may begin with any bytes, also with a pickle's; but then the header begins.
    is_header = first[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    stranger = next((what for mark, what in STRANGERS.items() if first.startswith(mark)), None)
    if stranger is not None and not is_header:
        raise WeightsError(
            f"expected a safetensors file, got {stranger}: {path}; only safetensors are read"
        )
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    begin = LENGTH_BYTES + length
    if len(first) < LENGTH_BYTES or length > min(LARGEST_HEADER, size - LENGTH_BYTES):
        raise WeightsError(
            f"expected a safetensors file, got {size:,} bytes whose header says {length:,}: {path}"
            " is another format, or was cut off; copy it again"
        )
    file.seek(LENGTH_BYTES)
    try:
        values = json.loads(file.read(length))
        return dict(values), begin
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"expected a JSON header in {path}, got: {error}; only safetensors are read"
        ) from error


def _record(path: Path, value: Mapping[str, Any], begin: int) -> TensorRecord:
    start, end = value["data_offsets"]
    shape = tuple(int(length) for length in value["shape"])
    dtype = DTYPES.get(value["dtype"])
    right = dtype is None or end - start == math.prod(shape) * dtype.itemsize
    if not right or start < 0 or end < start or min(shape, default=0) < 0:
        raise ValueError(f"bytes {start} to {end} for {shape} in {value['dtype']}")
    return TensorRecord(path, value["dtype"], shape, begin + start, begin + end)
