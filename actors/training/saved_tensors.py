"""The tensors of a checkpoint, by name, whichever ranks wrote them: read one at a time."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from infra.errors import CheckpointError


def tensor_file(folder: Path, kind: str, rank: int) -> Path:
    """Where `rank` writes its share of the tensors of `kind`: a role, or the averages."""
    return folder / f"{kind}.rank_{rank:02d}.safetensors"


class SavedTensors:
    """All tensors of one kind in a checkpoint folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Look up their names; CheckpointError if a file cannot be read."""
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob(f"{kind}.rank_*.safetensors")):
            with _open_file(path) as file:
                self._files |= dict.fromkeys(file.keys(), path)

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors."""
        return frozenset(self._files)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, on the CPU."""
        with _open_file(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def _open_file(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a readable checkpoint file {path}, got: {error}; delete its folder to"
            " resume from the checkpoint before it"
        ) from error
