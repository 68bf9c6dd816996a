"""Models from checkpoints of any format, and model folders: model.safetensors and config.json.

A model is made without memory for its parameters, which then are filled one tensor at a time from
the file: loading needs the memory of the model and of one tensor.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniforcing_model.errors import WeightsError
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.exchange import Exchange
from omniforcing_model.transformer.projections import FileTensor
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel
from omniforcing_model.weights.checkpoint import Checkpoint
from omniforcing_model.weights.checkpoint_format import CONFIG_FILE, open_checkpoint
from omniforcing_model.weights.checkpoint_writing import SHARD_BYTES, write_ours
from omniforcing_model.weights.safetensors_file import TensorToWrite
from omniforcing_model.weights.stated_family import StatedFamily

LOG = logging.getLogger(__name__)
READ_BYTES = 1 << 20


def save_model(
    folder: Path,
    model: DualStreamTransformer,
    notes: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the weights in `dtype`, and config.json with the model's config and `notes`."""
    tensors = [
        TensorToWrite(name, dtype, tuple(view.shape), partial(_identity, view))
        for name, view in model.file_tensors().items()
    ]
    write_ours(folder, model.config, tensors, notes, shard_bytes)


def load_model(
    folder: Path,
    halves: Collection[str] = STREAMS,
    exchange: Exchange | None = None,
    parallel: PerStream[StreamParallel] = UNSPLIT,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    stated: StatedFamily | None = None,
) -> DualStreamTransformer:
    """The model of a checkpoint in evaluation mode, or the named halves of it.

    Args:
        folder: our folder, diffusers', LTX-2's single file, or shards with LTX-2's names.
        halves: "video", "audio" or both; the tensors of the other half are not read.
        exchange: how a half that is not here is reached.
        parallel: the share of each stream that this process holds.
        dtype: of the parameters.
        device: of the parameters.
        stated: the layout, or the profile, where the checkpoint does not state it.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape (all are listed), or the
            checkpoint is not what is stated.
    """
    checkpoint = open_checkpoint(folder, stated)
    checkpoint.require(halves)
    with torch.device("meta"):
        model = DualStreamTransformer(checkpoint.config, exchange, halves, parallel)
    model.to(dtype).to_empty(device=device)
    fill_model(model, checkpoint)
    if checkpoint.dropped:
        LOG.info("%s: left alone %s", checkpoint.path, ", ".join(checkpoint.dropped))
    if checkpoint.fresh:
        LOG.info("%s: started new %s", checkpoint.path, ", ".join(checkpoint.fresh))
    return model.eval()


@torch.no_grad()
def fill_model(model: DualStreamTransformer, checkpoint: Checkpoint) -> None:
    """Read every parameter of `model` from `checkpoint`, whose tensors have been checked."""
    for name, piece in model.file_pieces().items():
        if not piece.view.numel():
            continue  # no sinks: a file need not hold them
        part = _read_piece(checkpoint, name, piece)
        if part.shape != piece.view.shape:  # copy_ would broadcast it
            raise WeightsError(
                f"expected {name} {tuple(piece.view.shape)}, got {tuple(part.shape)} in"
                f" {checkpoint.path}; load it into a model of its own configuration"
            )
        piece.view.copy_(part)


def _read_piece(checkpoint: Checkpoint, name: str, piece: FileTensor) -> Tensor:
    """This process's part of a tensor: rows are read alone, columns are cut from the whole."""
    if piece.dim == 0:
        rows = slice(piece.start, piece.start + len(piece.view))
        return checkpoint.tensor(name, rows)
    return piece.of(checkpoint.tensor(name))


def folder_digest(folder: Path) -> str:
    """ "sha256:..." over the weights files of a checkpoint and its configuration of the model."""
    checkpoint = open_checkpoint(folder)
    digest = hashlib.sha256()
    if checkpoint.format == "ours":
        digest.update(checkpoint.config.model_dump_json(exclude_defaults=True).encode())
    elif checkpoint.format == "diffusers":
        digest.update((checkpoint.path / CONFIG_FILE).read_bytes())
    for path in checkpoint.source.files:
        for chunk in _chunks(path):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            yield chunk


def _identity(view: Tensor) -> Tensor:
    return view
