"""Model URIs, and the checkpoints of a stage: folders that count only when their manifest is there.

    <run>/stages/<stage>/checkpoints/step_000500/<role>.rank_00.safetensors ...
                                                  manifest.json     written last
    <run>/stages/<stage>/checkpoints/.unfinished_001000.000003/     of the third attempt at the run
    <run>/stages/<stage>/model/                   model.safetensors, config.json, manifest.json

Checkpoints hold everything a resume needs and only the newest are kept; models are kept for ever.
Tensors are written by actors/training/distillation_worker.py; here are their names, sizes and
digests.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from infra.errors import CheckpointError
from infra.leases.fence import Fence, require_owner
from infra.records import Record
from infra.runs.provenance import MANIFEST, Recipe, require_same_recipe
from infra.runs.tracking import REGISTRY_SCHEME, registered_model_folder
from infra.storage.package_files import resolve_file

MODEL_FILES = ("model.safetensors", "config.json")
WEIGHTS_SUFFIXES = (".safetensors", ".safetensors.index.json")
DIFFUSERS_PART = "transformer"
CHECKPOINTS_KEPT = 2
# Beginning of the names of folders whose checkpoint is being written.
UNFINISHED = ".unfinished_"
READ_BYTES = 1 << 20


class FileRecord(Record):
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


class CheckpointManifest(Record):
    """The state after `step` steps: `updates` of each role, and the files that hold them."""

    schema_version: Literal[1] = 1
    kind: Literal["checkpoint"] = "checkpoint"
    stage: str
    step: int
    updates: dict[str, int]
    world_size: int
    recipe: Recipe
    files: tuple[FileRecord, ...]


class CheckpointStore:
    """The checkpoints of one stage in one folder. Every rank writes; rank 0 begins and commits.

    Files are written where no other attempt at the run writes, and only who owns the run gives
    them their place or removes old ones: workers that were given up cannot touch what counts.
    """

    def __init__(
        self, folder: Path, fence: Fence | None = None, keep: int = CHECKPOINTS_KEPT
    ) -> None:
        """Checkpoints lie in `folder`, which need not exist; the newest `keep` stay.

        fence: of the run, as of `require_owner`, which `begin` and `commit` ask.
        """
        self._folder = folder
        self._fence = fence
        self._keep = keep

    def place(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps."""
        return self._folder / f"step_{step:06d}"

    def unfinished(self, step: int) -> Path:
        """Folder in which this attempt writes the checkpoint after `step` steps."""
        attempt = 0 if self._fence is None else self._fence.attempt
        return self._folder / f"{UNFINISHED}{step:06d}.{attempt:06d}"

    def begin(self, step: int) -> None:
        """Make an empty folder for a checkpoint; what killed runs left unfinished goes.

        OwnershipError if another run has taken over.
        """
        require_owner(self._fence)
        for left in self._folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.unfinished(step).mkdir(parents=True)

    def commit(self, manifest: CheckpointManifest) -> None:
        """Make the written files a checkpoint, and remove the oldest ones.

        OwnershipError if another run has taken over: nothing is replaced or removed then.
        """
        unfinished, place = self.unfinished(manifest.step), self.place(manifest.step)
        write_text_at_once(unfinished / MANIFEST, manifest.model_dump_json(indent=1))
        require_owner(self._fence)
        shutil.rmtree(place, ignore_errors=True)  # a damaged one, or of before manifests
        unfinished.replace(place)
        for old in self._complete()[self._keep :]:
            # Without its manifest it is no checkpoint any more, wherever the removal is cut off.
            (self.place(old.step) / MANIFEST).unlink()
            shutil.rmtree(self.place(old.step), ignore_errors=True)

    def complete(self, recipe: Recipe) -> list[CheckpointManifest]:
        """Complete checkpoints, newest first; their bits may have changed since (`damage`).

        CheckpointError if one was made by another recipe: the message names the differing keys.
        """
        complete = self._complete()
        for manifest in complete:
            require_same_recipe(manifest.recipe, recipe, self.place(manifest.step))
        return complete

    def damage(self, manifest: CheckpointManifest, share: int, shares: int) -> str | None:
        """What is wrong with one of the files of a share of the checkpoint; None if nothing is.

        Reading takes long where weights are large, so every rank reads the share of its number.
        """
        folder = self.place(manifest.step)
        for file in manifest.files[share::shares]:
            digest = record_of(folder / file.name).sha256
            if digest != file.sha256:
                return f"expected {file.sha256} of {folder / file.name}, got {digest}"
        return None

    def _complete(self) -> list[CheckpointManifest]:
        """Complete checkpoints, newest first."""
        manifests = [_read(path) for path in self._folder.glob(f"step_*/{MANIFEST}")]
        whole = [m for m in manifests if m is not None and self._has_its_files(m)]
        return sorted(whole, key=lambda manifest: manifest.step, reverse=True)

    def _has_its_files(self, manifest: CheckpointManifest) -> bool:
        paths = {file: self.place(manifest.step) / file.name for file in manifest.files}
        return all(p.is_file() and p.stat().st_size == f.bytes for f, p in paths.items())


def _read(path: Path) -> CheckpointManifest | None:
    try:
        return CheckpointManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None  # cut off while it was written, or of another version: not a checkpoint of ours


def record_of(path: Path) -> FileRecord:
    """Name, size and digest of a file."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            sha256.update(part)
    return FileRecord(
        name=path.name, bytes=path.stat().st_size, sha256=f"sha256:{sha256.hexdigest()}"
    )


def write_text_at_once(path: Path, text: str) -> None:
    """Write a text file that appears, or replaces an older one, only when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def resolve_model(uri: str, tracking_uri: str | None = None) -> Path:
    """The folder of a model, or LTX-2's file.

    Args:
        uri: a folder, `package://...` inside this package, or `models:/NAME@ALIAS` or
            `models:/NAME/VERSION` in MLflow's registry. Besides our folders: diffusers' folder of
            LTX-2, its single file, and the shards of OmniForcing.
        tracking_uri: where MLflow is; only `models:/` asks.

    Raises:
        CheckpointError: nothing is there, or it is not a complete model.
    """
    folder = (
        registered_model_folder(uri, tracking_uri)
        if uri.startswith(REGISTRY_SCHEME)
        else resolve_file(uri)
    )
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing and not _has_other_weights(folder):
        raise CheckpointError(
            f"expected a model folder with {' and '.join(MODEL_FILES)} at {uri}, got {folder}"
            f" without {' and '.join(missing)}; name the folder that a stage has published"
        )
    return folder


def _has_other_weights(place: Path) -> bool:
    """Whether `place` may be a checkpoint in another format than ours, or in shards."""
    if place.is_file():
        return place.name.endswith(WEIGHTS_SUFFIXES)
    files = {file.name for part in (place, place / DIFFUSERS_PART) for file in part.glob("*")}
    return any(name.endswith(WEIGHTS_SUFFIXES) for name in files - {MODEL_FILES[0]})


def unfinished_model(folder: Path, fence: Fence | None) -> Path:
    """Where this attempt at the run makes the model that will be `folder`; what killed ones left
    goes. OwnershipError if another run has taken over."""
    require_owner(fence)
    for left in folder.parent.glob(".model.*"):
        shutil.rmtree(left, ignore_errors=True)
    attempt = 0 if fence is None else fence.attempt
    return folder.with_name(f".model.{attempt:06d}.unfinished")


def publish(unfinished: Path, folder: Path) -> None:
    """Move a completely written `unfinished` model folder to `folder`, which appears at once."""
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
