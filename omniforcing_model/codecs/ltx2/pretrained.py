"""Models of diffusers and transformers from folders on this machine, complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from omniforcing_model.errors import WeightsError

_SHOWN = 3


def load_pretrained(
    kind: Any, folder: Path, dtype: torch.dtype = torch.float32, exact: bool = True
) -> Any:
    """An instance of `kind`, a model class of diffusers or transformers.

    Reads config.json and safetensors, also in shards; downloads and unpickles nothing. Both
    libraries fill what a file lacks with random numbers: here that is a WeightsError, as are files
    that are not there and, where `exact`, tensors that the model does not know.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"expected {kind.__name__} with its config.json in {folder}, got none; point to a"
            " folder of a release in diffusers' layout"
        )
    try:
        with _hide_progress_bars(kind):
            model, report = kind.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                # Faster where accelerate is installed; diffusers complains at length without it.
                low_cpu_mem_usage=find_spec("accelerate") is not None,
            )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"expected {kind.__name__} as config.json and safetensors in {folder}, got: {reason}"
        ) from error
    problems = ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if exact else []))
    for problem in problems:
        names = sorted(map(str, report[problem]))
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise WeightsError(
                f"expected exactly the tensors of {kind.__name__} in {folder}, got {len(names)}"
                f" {problem.replace('_', ' ')}: {shown}; take weights and config.json from one"
                " release"
            )
    return model


@contextmanager
def _hide_progress_bars(kind: Any) -> Iterator[None]:
    """The libraries draw progress bars into logs too; a caller shows progress in its own way."""
    library = str(kind.__module__).partition(".")[0]
    bars = import_module(f"{library}.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
