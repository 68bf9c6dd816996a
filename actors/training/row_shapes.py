"""What the rows of a run are like, by its configuration; a row of another shape is named.

Otherwise clips of another length or size would train without a word, or end in a matrix product.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.config import FrameSize, RunConfig
from infra.dataset.columns import LATENT_TENSORS, STATE_TENSORS, TEXT_TENSORS
from infra.dataset.latent_table import LatentTable
from infra.errors import DatasetError
from omniforcing_model.config import ModelConfig
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

Shape = tuple[int, ...]
STATE_DTYPES = ("float32", "float16")


def clip_latents(
    config: RunConfig, model: ModelConfig, size: FrameSize | None = None
) -> tuple[PerStream[int], tuple[int, int]]:
    """Latents of the run's clips per stream, and the (height, width) of those of video.

    size: of the pictures; None: data.height x data.width.
    """
    layout, of_size = BlockLayout(model.layout), size or config.data.sizes[0]
    grid = latent_grid(of_size.height, of_size.width, model.spatial_stride)
    return layout.latents(layout.blocks_for_seconds(config.data.seconds)), grid


def latent_shapes(
    config: RunConfig, size: FrameSize, states: int | None = None
) -> dict[str, Shape]:
    """Shape of the latents of a row, by column; `states`: of a trajectory, None for clips."""
    model = config.model
    latents, grid = clip_latents(config, model, size)
    video, audio = LATENT_TENSORS if states is None else STATE_TENSORS.values()
    first: Shape = () if states is None else (states,)
    return {
        video: (*first, latents.video, model.video.latent_channels, *grid),
        audio: (*first, latents.audio, model.audio.latent_channels),
    }


def text_shapes(config: RunConfig) -> dict[str, Shape]:
    """Shape of the text features of a row, by column."""
    model = config.model
    widths = PerStream(*(_text_width(model, s.width) for s in (model.video, model.audio)))
    return {
        TEXT_TENSORS["video"]: (config.codec.text_tokens, widths.video),
        TEXT_TENSORS["audio"]: (config.codec.text_tokens, widths.audio),
    }


def require_shapes(
    columns: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, Shape],
    table: LatentTable,
    indices: NDArray[np.int64],
) -> None:
    """DatasetError, naming row and clip, if a tensor of rows `indices` has another shape than
    `shapes`, or is not float32; states may be float16."""
    for name, shape in shapes.items():
        dtypes = STATE_DTYPES if name in STATE_TENSORS.values() else ("float32",)
        for index, value in zip(indices, columns[name], strict=True):
            if value.shape != shape or value.dtype.name not in dtypes:
                raise DatasetError(
                    f"expected {name} of {table.describe(int(index))} in {table.uri} to be"
                    f" {' or '.join(dtypes)} of {shape}, got {value.dtype} of {value.shape}; set"
                    " data.*, codec.* and model.* to what the dataset was made with, make it again,"
                    " or leave the row out with data.exclude"
                )


def _text_width(model: ModelConfig, own_width: int) -> int:
    """From LTX-2.3 on text features come in each stream's own width."""
    return own_width if model.modulated_text else model.text_width
