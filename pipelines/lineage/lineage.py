"""What a model was made of: models, trajectories, datasets, shards, clips, back to the captions.

MLflow is asked first, by digest. Where it knows nothing, or is not there, the manifests beside the
weights tell the same. A place that meanwhile holds something else is named, not followed.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from infra.dataset.columns import TENSOR_PLACES, Column
from infra.dataset.manifest import DatasetManifest, read_manifest
from infra.dataset.shards import shard_rows
from infra.errors import CheckpointError, DatasetError
from infra.records import Record
from infra.runs.checkpoint_store import resolve_model
from infra.runs.provenance import (
    ArtifactRef,
    ModelManifest,
    digest_of,
    read_model_manifest,
    resolved_uri,
)
from infra.runs.tracking import ProducingRun, RunIndex
from infra.storage.object_store import ObjectStore
from infra.storage.package_files import PACKAGE_SCHEME
from omniforcing_model.weights.checkpoint_files import folder_digest

# Columns of a row that name the files with its tensors, and those that a clip's node tells.
HOLDERS = tuple(place.shard for place in TENSOR_PLACES)
DETAILS = (Column.ROW_ID, Column.CAPTION_RAW, Column.CAPTION)
CLIP_COLUMNS = (Column.CLIP_URI, Column.CLIP_DIGEST, *DETAILS)


class LineageNode(Record):
    """One thing a model was made of, or the model itself.

    `inputs`: digests of the nodes it was made of. `config_digest`: of the configuration that made
    it, `commit`: of the code; None where nobody wrote them down. `details`: a clip's captions, and
    under "problem" why a node's own inputs are not known.
    """

    kind: str
    name: str
    digest: str
    uri: str
    config_digest: str | None = None
    commit: str | None = None
    run: str | None = None
    details: dict[str, str] = Field(default={})
    inputs: tuple[str, ...] = ()


def lineage(model: str, tracking_uri: str | None = None) -> list[LineageNode]:
    """The model and everything it was made of, each once, results before their inputs.

    Args:
        model: URI of a model, as `resolve_model` takes it.
        tracking_uri: where MLflow is; without it the manifests of the folders are read.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: nothing answers at `tracking_uri`.
    """
    folder = resolve_model(model, tracking_uri).absolute()
    manifest = read_model_manifest(folder)
    start = ArtifactRef(
        role="model",
        kind="model",
        name=folder.name if manifest is None else manifest.name,
        digest=folder_digest(folder),
        uri=model if model.startswith(PACKAGE_SCHEME) else str(folder),
    )
    walk = _Walk(RunIndex(tracking_uri) if tracking_uri else None)
    walk.visit(start, str(folder))
    return list(walk.nodes.values())


class _Walk:
    def __init__(self, index: RunIndex | None) -> None:
        self.nodes: dict[tuple[str, str], LineageNode] = {}
        self._index = index

    def visit(self, ref: ArtifactRef, place: str) -> None:
        """Add the node of `ref`, which lies at `place`, and all it was made of."""
        if (ref.kind, ref.digest) in self.nodes:
            return
        run = None if self._index is None else self._index.producer(ref.digest)
        node, inputs, home = _describe(ref, place, run)
        while (start := _same_model(ref, inputs)) is not None:
            place = resolved_uri(start.uri, Path(home))
            node, inputs, home = _describe(ref, place, None)
        self.nodes[ref.kind, ref.digest] = node
        for source in inputs:
            self.visit(source, resolved_uri(source.uri, Path(home)))
        if ref.kind == "dataset" and "problem" not in node.details:
            for part in _shards_and_clips(place):
                self.nodes.setdefault((part.kind, part.digest), part)


def _same_model(ref: ArtifactRef, inputs: tuple[ArtifactRef, ...]) -> ArtifactRef | None:
    """Where a stage without steps has its model from; its own inputs made it."""
    same = (source for source in inputs if (source.kind, source.digest) == (ref.kind, ref.digest))
    return next(same, None)


def _describe(
    ref: ArtifactRef, place: str, run: ProducingRun | None
) -> tuple[LineageNode, tuple[ArtifactRef, ...], str]:
    """The node of `ref`, its inputs, and the folder that their URIs start from."""
    run_id = None if run is None else run.run_id
    node = LineageNode(kind=ref.kind, name=ref.name, digest=ref.digest, uri=place, run=run_id)
    if run is not None and ref.kind != "dataset":  # shards and clips are in no run
        origin = {"config_digest": run.recipe_digest, "commit": run.commit}
        links = {"inputs": _digests(run.inputs)}
        return node.model_copy(update={**origin, **links}), run.inputs, run.uri
    try:
        if ref.kind == "model":
            return _model_node(node, _model_manifest(place, ref.digest), place)
        return _dataset_node(node, _dataset_manifest(place, ref.digest), place)
    except (CheckpointError, DatasetError) as error:
        return node.model_copy(update={"details": {"problem": str(error)}}), (), place


def _model_node(
    node: LineageNode, manifest: ModelManifest, place: str
) -> tuple[LineageNode, tuple[ArtifactRef, ...], str]:
    origin = {"config_digest": manifest.recipe_digest, "commit": manifest.commit}
    links = {"inputs": _digests(manifest.inputs)}
    return node.model_copy(update={**origin, **links}), manifest.inputs, place


def _dataset_node(
    node: LineageNode, manifest: DatasetManifest, place: str
) -> tuple[LineageNode, tuple[ArtifactRef, ...], str]:
    source = manifest.provenance
    recipe = source.get("recipe")
    origin = {
        "config_digest": None if recipe is None else digest_of(recipe),
        "commit": source.get("commit"),
    }
    inputs = tuple(ArtifactRef.model_validate(values) for values in source.get("inputs", ()))
    made_of = _digests(inputs) or tuple(shard.sha256 for shard in manifest.shards)
    return node.model_copy(update={**origin, "inputs": made_of}), inputs, place


def _digests(refs: tuple[ArtifactRef, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ref.digest for ref in refs))


def _model_manifest(place: str, digest: str) -> ModelManifest:
    manifest = read_model_manifest(Path(place))
    if manifest is None:
        raise CheckpointError(f"no manifest beside the weights in {place}")
    if manifest.digest != digest:
        raise CheckpointError(f"{place} now holds another model, {manifest.digest}")
    return manifest


def _dataset_manifest(place: str, digest: str) -> DatasetManifest:
    manifest = read_manifest(ObjectStore(place))
    if manifest is None:
        raise DatasetError(f"no dataset in {place} any more")
    if manifest.digest != digest:
        raise DatasetError(f"{place} now holds another dataset, {manifest.digest}")
    return manifest


def _shards_and_clips(place: str) -> Iterator[LineageNode]:
    """The clips of a dataset, and the files that hold what was made of them."""
    store = ObjectStore(place)
    manifest = read_manifest(store)
    assert manifest is not None, "the dataset node has read it"
    clips_of: dict[str, dict[str, None]] = {}
    for file in manifest.tables or manifest.shards:
        columns = (*CLIP_COLUMNS, *(HOLDERS if manifest.tables else ()))
        for row in shard_rows(store, file.name, columns):
            holders = [row[name] for name in HOLDERS] if manifest.tables else [file.name]
            for name in holders:
                clips_of.setdefault(name, {})[row[Column.CLIP_DIGEST]] = None
            yield LineageNode(
                kind="clip",
                name=Path(row[Column.CLIP_URI]).name,
                digest=row[Column.CLIP_DIGEST],
                uri=row[Column.CLIP_URI],
                details={name: row[name] for name in DETAILS},
            )
    for shard in manifest.shards:
        yield LineageNode(
            kind="shard",
            name=shard.name,
            digest=shard.sha256,
            uri=f"{store.uri}/{shard.name}",
            inputs=tuple(clips_of.get(shard.name, ())),
        )
