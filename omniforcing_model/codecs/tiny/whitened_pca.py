"""A linear code with unit variance per channel: the learned part of both tiny codecs."""

import json
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from omniforcing_model.errors import ShapeError, WeightsError
from omniforcing_model.weights.safetensors_file import TensorFile

_OVERSAMPLING = 8
_POWER_ITERATIONS = 4
_BUFFERS = ("mean", "basis", "std")


class WhitenedPca(nn.Module):
    """Code = basis (x - mean) / std.

    mean: (width,); basis: (channels, width), orthonormal rows; std: (channels,). On disk the basis
    is float16, half the file; in memory float32.
    """

    mean: Tensor
    basis: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, basis: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("basis", basis.float())
        self.register_buffer("std", std.float())

    @property
    def channels(self) -> int:
        """Numbers per code."""
        return self.basis.shape[0]

    @classmethod
    def fit(cls, samples: Tensor, channels: int, seed: int = 0) -> Self:
        """Fit on samples, (count, width), by a randomised SVD seeded with `seed`."""
        if samples.shape[0] < channels + _OVERSAMPLING:
            raise ShapeError(
                f"expected at least {channels + _OVERSAMPLING} samples to fit {channels} channels, "
                f"got {samples.shape[0]}; give more clips"
            )
        mean = samples.mean(0)
        centred = samples - mean
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _, _, right = torch.svd_lowrank(
                centred, q=channels + _OVERSAMPLING, niter=_POWER_ITERATIONS
            )
        basis = right[:, :channels].T
        # The sign of a singular vector is arbitrary; fixing it makes a refit comparable.
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        # Rounded now, so that the fitted codec and the one read back from disk are the same.
        basis = (basis * largest.sign()).half().float()
        return cls(mean, basis, (centred @ basis.T).std(0))

    def encode(self, values: Tensor) -> Tensor:
        """(..., width) to (..., channels), each channel of unit variance on the fitted data."""
        return (values - self.mean) @ self.basis.T / self.std

    def decode(self, codes: Tensor) -> Tensor:
        """(..., channels) to the nearest (..., width)."""
        return (codes * self.std) @ self.basis + self.mean

    def explained_variance(self, samples: Tensor) -> float:
        """Share of the variance of samples, (count, width), that the code keeps."""
        residual = samples - self.decode(self.encode(samples))
        return 1.0 - float(residual.square().sum() / (samples - samples.mean(0)).square().sum())

    def save(self, path: Path, kind: str, settings: dict[str, float | int]) -> None:
        """Write the tensors and, as metadata, `kind` and the settings of the codec around it."""
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _BUFFERS}
        tensors["basis"] = tensors["basis"].half()
        save_file(tensors, path, metadata={"kind": kind, "settings": json.dumps(settings)})

    @classmethod
    def load(cls, path: Path, kind: str) -> tuple[Self, dict[str, float | int]]:
        """Read what `save` wrote; WeightsError for a file of another kind, or a damaged one."""
        file = TensorFile(path)
        if file.metadata.get("kind") != kind or set(file.tensors) != set(_BUFFERS):
            raise WeightsError(
                f"expected a {kind} with tensors {', '.join(_BUFFERS)}, got "
                f"{file.metadata.get('kind')!r} with {', '.join(sorted(file.tensors))} in {path}; "
                "give the file that this codec saved"
            )
        settings: dict[str, float | int] = json.loads(file.metadata["settings"])
        return cls(*(file.tensor(name) for name in _BUFFERS)), settings
