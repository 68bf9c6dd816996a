"""What something was made from: digests, recipes and manifests, the links of every lineage.

A recipe is all that decides a result: of a stage, its configuration and the digests of its inputs
(stage_recipe.py). Two runs with equal recipes make the same thing, so a recipe's digest answers "is
this done already?", and two recipes tell which key has changed.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from infra.errors import CheckpointError
from infra.records import Record

MANIFEST = "manifest.json"
ROOT = Path(__file__).resolve().parents[2]
GIT_TIMEOUT_S = 10
SHOWN_KEYS = 8

Recipe = dict[str, Any]


class ArtifactRef(Record):
    """One input of a stage.

    `uri`: a folder or URI; a relative path starts at the folder of the manifest it stands in, so
    that a run folder can be moved as a whole.
    """

    role: str
    kind: Literal["dataset", "trajectories", "model"]
    name: str
    digest: str
    uri: str


class ModelManifest(Record):
    """Where a model comes from: manifest.json of its folder, written last.

    `versions`: of the libraries that computed it, by name; they decide its last digits.
    """

    schema_version: Literal[1] = 1
    kind: Literal["model"] = "model"
    name: str
    stage: str
    digest: str
    recipe_digest: str
    recipe: Recipe
    inputs: tuple[ArtifactRef, ...]
    commit: str
    seed: int
    step: int
    metrics: dict[str, float]
    versions: dict[str, str] = Field(default_factory=dict)


def digest_of(values: Any) -> str:
    """ "sha256:..." of plain values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def differing_keys(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` for every key in which two recipes differ."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def require_same_recipe(old: Recipe, new: Recipe, folder: Path) -> None:
    """CheckpointError if what lies in `folder` was made by another recipe; names the keys."""
    keys = differing_keys(old, new)
    if keys:
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        raise CheckpointError(
            f"expected {folder} to be of this configuration, got another: "
            f"{'; '.join(keys[:SHOWN_KEYS])}{more}; choose another --out, set the keys back, or"
            f" delete that folder to train the stage anew"
        )


def read_model_manifest(folder: Path) -> ModelManifest | None:
    """The manifest of a model folder, None if it has none; CheckpointError if it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return ModelManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected the manifest of a model in {path}, got: {reason}; restore or delete it"
        ) from error


def relative_uri(uri: str, folder: Path, run: Path) -> str:
    """`uri` as a manifest in `folder` names it: relative if both lie in the run folder `run`."""
    if "://" in uri:
        return uri
    target, home = Path(uri).absolute(), run.absolute()
    if not target.is_relative_to(home):
        return str(target)
    up = len(folder.absolute().relative_to(home).parts)
    return "/".join([*[".."] * up, *target.relative_to(home).parts])


def resolved_uri(uri: str, folder: Path) -> str:
    """What `relative_uri` wrote, from the manifest's `folder`."""
    return uri if "://" in uri else str((folder / uri).resolve())


def code_commit(root: Path = ROOT) -> str:
    """Commit of the code in `root`, `-dirty` if files differ; "unknown" outside a checkout."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if not top or Path(top) != root:
            return "unknown"  # installed inside somebody else's repository
        return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=GIT_TIMEOUT_S,
    )
    return done.stdout.strip()
