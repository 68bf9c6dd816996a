"""What decides the rows of a dataset besides its clips, and whether all of it is done already."""

from importlib.metadata import version
from typing import Any, NamedTuple

from actors.captions.prompts import PROMPT_VERSION
from infra.config import RunConfig
from infra.dataset.manifest import LATENTS_KIND, DatasetManifest, missing_file, read_manifest
from infra.errors import DatasetError
from infra.media.versions import decoding_versions
from infra.runs.provenance import digest_of
from infra.storage.object_store import ObjectStore
from omniforcing_model.macro_block import BlockLayout
from pipelines.preprocessing.codec_digests import codec_digests, model_digest
from pipelines.preprocessing.keys import (
    LATENTS_VERSION,
    SURVEY_VERSION,
    TEXT_VERSION,
    RecipeDigests,
)

TEXT_LIBRARIES = {"tiny": ("torch",), "ltx2": ("torch", "transformers")}


class PreprocessRecipe(NamedTuple):
    """All that decides a dataset besides its clips, as plain values, and the digests of its parts.

    `codecs`: the digests of codecs and text encoder, which stand in `values` too.
    """

    values: dict[str, Any]
    codecs: dict[str, str]
    parts: RecipeDigests


def recipe_of(config: RunConfig) -> PreprocessRecipe:
    """The recipe of a configuration; CheckpointError or ConfigError if a codec is not there."""
    data, codecs = config.data, codec_digests(config.codec)
    pictures = {name: digest for name, digest in codecs.items() if name in ("video", "audio")}
    values = {
        "survey": {
            "version": SURVEY_VERSION,
            "decoder": decoding_versions(),
            "seconds": data.seconds,
            "split": _split(config),
        },
        "latents": {
            "version": LATENTS_VERSION,
            "decoder": decoding_versions(),
            "seconds": data.seconds,
            "loudness_lufs": data.loudness_lufs,
            "loudness_meter": _library("pyloudnorm"),
            "encoder": _encoder("torch"),
            "codecs": pictures,
            "codec_kind": config.codec.kind,
            "row_latents": _row_latents(config),
        },
        "text": {
            "version": TEXT_VERSION,
            "rewriter": _rewriter(config),
            "language_identifier": _library("py3langid"),
            "encoder": _encoder(*TEXT_LIBRARIES[config.codec.kind]),
            "codecs": {name: digest for name, digest in codecs.items() if name not in pictures},
            "codec_kind": config.codec.kind,
            "tokens": config.codec.text_tokens,
            "width": config.model.text_width,
        },
        # In no part: what is decided anew from what was measured.
        "gates": data.gates.model_dump(),
        "max_windows": data.split.max_windows,
        "sizes": [[size.height, size.width] for size in data.sizes],
    }
    parts = RecipeDigests(*(digest_of(values[name]) for name in RecipeDigests._fields))
    return PreprocessRecipe(values, codecs, parts)


def finished_before(
    recipe: PreprocessRecipe,
    listing_digest: str,
    present: DatasetManifest | None,
    target: ObjectStore,
) -> DatasetManifest | None:
    """`present`, of the dataset in `target`, if that is whole, and was made from the same clips in
    the same way."""
    if present is None or missing_file(target, present) is not None:
        return None
    same = present.provenance.get("input_digest") == input_digest(recipe, listing_digest)
    return present if same else None


def input_digest(recipe: PreprocessRecipe, listing_digest: str) -> str:
    """Digest of everything that a run sees."""
    return digest_of([listing_digest, recipe.values])


def usable_manifest(target: ObjectStore) -> DatasetManifest | None:
    """The manifest in `target`; None if there is none, or it is damaged and has to be made anew.

    DatasetError if it is of a dataset of another kind.
    """
    try:
        manifest = read_manifest(target)
    except DatasetError:
        return None
    if manifest is not None and manifest.kind != LATENTS_KIND:
        raise DatasetError(
            f"expected a dataset of {LATENTS_KIND} or a new folder at {target.uri}, got"
            f" {manifest.kind}; name another place for the output"
        )
    return manifest


def _library(name: str) -> str:
    """A library whose numbers or judgements get into rows: another version of it, another row."""
    return f"{name} {version(name)}"


def _encoder(*names: str) -> dict[str, str]:
    """Libraries that a model runs in, without what a build is called: they round, each its own way.

    NumPy's and SciPy's sums on sound are not among them: nothing hangs on their last digit.
    """
    return {name: version(name).partition("+")[0] for name in names}


def _row_latents(config: RunConfig) -> dict[str, int]:
    """Latents that a row holds of each stream: all that a layout of macro-blocks decides of it."""
    layout = BlockLayout(config.model.layout)
    return layout.latents(layout.blocks_for_seconds(config.data.seconds))._asdict()


def _split(config: RunConfig) -> dict[str, Any]:
    """What decides where windows begin; how many of them count does not."""
    split = config.data.split
    if split.kind != "shots":
        return {"kind": split.kind}
    detector = {
        "shot_threshold": split.shot_threshold,
        "shot_detector": _library("scenedetect-headless"),
    }
    return {"kind": split.kind, **detector}


def _rewriter(config: RunConfig) -> dict[str, Any]:
    """What decides the words: neither where the rewriter runs nor how patient we are with it."""
    rewriter = config.data.rewriter
    values: dict[str, Any] = {"kind": rewriter.kind}
    if rewriter.kind != "grammar":
        limits = {"max_new_tokens", "min_words", "max_words"}
        values |= {"prompt": PROMPT_VERSION, **rewriter.model_dump(include=limits)}
        values["model"] = rewriter.model
        if rewriter.kind == "gemma":
            values["model"] = model_digest(rewriter.model)
    return values
