"""A lazy view of the tensors of a checkpoint, in one file or in shards."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.safetensors_file import SUFFIX, TensorFile, TensorRecord

INDEX_SUFFIX = f"{SUFFIX}.index.json"
WEIGHT_MAP = "weight_map"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
SHOWN_FILES = 5


class TensorSource:
    """Names, dtypes and shapes of all tensors; their data are read on demand."""

    def __init__(self, files: Iterable[Path], listed: Collection[str] | None = None) -> None:
        """Open `files`, without reading their tensors.

        Args:
            files: safetensors files that belong together.
            listed: names that their index promises, if there is one.

        Raises:
            WeightsError: a file is unreadable, or the files and their index disagree.
        """
        self.files = tuple(files)
        self._opened: dict[Path, TensorFile] = {}
        self.metadata: dict[str, str] = {}
        self.records: dict[str, TensorRecord] = {}
        for path in self.files:
            opened = self._opened[path] = TensorFile(path)
            self.metadata |= opened.metadata
            for name, record in opened.tensors.items():
                if name in self.records:
                    raise WeightsError(
                        f"expected every tensor once, got {name} in {self.records[name].path} and"
                        f" in {path}; leave the files of one checkpoint in the folder"
                    )
                self.records[name] = record
        if listed is not None and set(listed) != set(self.records):
            names = sorted(set(listed) ^ set(self.records))
            raise WeightsError(
                f"expected the tensors that the index names in {self.files[0].parent}, got"
                f" {len(names)} differences: {', '.join(names[:SHOWN_FILES])}; copy the shards and"
                " the index of one checkpoint"
            )

    def tensor(self, name: str, rows: slice | None = None) -> Tensor:
        """One tensor, or `rows` of its first axis, on the CPU in the dtype of the file."""
        return self._opened[self.records[name].path].tensor(name, rows)


def open_files(path: Path) -> TensorSource:
    """The tensors of a safetensors file, of an index with its shards, or of a folder of them.

    Raises:
        WeightsError: there are none, some are missing, or more than one set lies in the folder.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(INDEX_SUFFIX):
        return _open_index(path)
    return TensorSource([path])


def open_named(folder: Path, stem: str) -> TensorSource:
    """The tensors of `stem`.safetensors in a folder, or of its shards."""
    index = folder / f"{stem}{INDEX_SUFFIX}"
    whole = folder / f"{stem}{SUFFIX}"
    if index.is_file() and not whole.is_file():
        return _open_index(index)
    if whole.is_file():
        return TensorSource([whole])
    raise _no_weights(folder, f"{whole.name} or {index.name}")


def has_named(folder: Path, stem: str) -> bool:
    """Whether `open_named` would find files."""
    return any((folder / f"{stem}{suffix}").is_file() for suffix in (SUFFIX, INDEX_SUFFIX))


def index_of(files: Sequence[Path]) -> Path | None:
    """The index beside `files` that lists just these; None if there is none."""
    names = {file.name for file in files}
    for index in sorted(files[0].parent.glob(f"*{INDEX_SUFFIX}")):
        places = json.loads(index.read_text(encoding="utf-8")).get(WEIGHT_MAP, {})
        if set(places.values()) == names:
            return index
    return None


def _open_folder(folder: Path) -> TensorSource:
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if len(indexes) > 1:
        names = ", ".join(index.name for index in indexes)
        raise WeightsError(
            f"expected one index in {folder}, got {names}; name one of these files instead"
        )
    if indexes:
        return _open_index(indexes[0])
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise _no_weights(folder, f"*{SUFFIX}")
    _refuse_gaps(folder, files)
    return TensorSource(files)


def _open_index(index: Path) -> TensorSource:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))[WEIGHT_MAP]
        listed = {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"expected an index with {WEIGHT_MAP} at {index}, got: {error!r}; copy it again"
        ) from error
    elsewhere = sorted(file for file in set(listed.values()) if Path(file).name != file)
    if elsewhere or not listed:
        raise WeightsError(
            f"expected file names beside {index}, got"
            f" {', '.join(elsewhere[:SHOWN_FILES]) or 'none'}; an index names files of its own"
            " folder"
        )
    files = [index.parent / file for file in sorted(set(listed.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(
            f"expected all {len(files)} shards that {index} names, got {len(missing)} missing:"
            f" {', '.join(missing[:SHOWN_FILES])}; copy them too"
        )
    return TensorSource(files, listed)


def _refuse_gaps(folder: Path, files: list[Path]) -> None:
    """Shards number themselves; without an index this is how a missing one shows."""
    for file in files:
        match = SHARD.search(file.name)
        if match is None:
            continue
        first, width = file.name[: match.start()], len(match[1])
        all_shards = {
            f"{first}-{number:0{width}d}-of-{match[2]}{SUFFIX}"
            for number in range(1, int(match[2]) + 1)
        }
        missing = sorted(all_shards - {other.name for other in files})
        if missing:
            raise WeightsError(
                f"expected {match[2]} shards in {folder}, got {len(missing)} missing:"
                f" {', '.join(missing[:SHOWN_FILES])}; copy them too"
            )


def _no_weights(folder: Path, expected: str) -> WeightsError:
    pickles = sorted(
        file.name for file in folder.glob("*") if file.suffix in PICKLES and file.is_file()
    )
    contents = (
        f"pickles, which may run code when they are read: {', '.join(pickles[:SHOWN_FILES])}"
        if pickles
        else "none"
    )
    return WeightsError(
        f"expected {expected} in {folder}, got {contents}; weights are read from safetensors only"
    )
