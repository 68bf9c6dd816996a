"""Digests of the codecs that a dataset is made with, part of what names its rows.

A file of `tiny` is read whole. LTX-2's weights are not, since they are 30 GB: of every tensor the
name, type, shape and first bytes count, and of the small files everything. Training changes the
first bytes of a tensor as it changes the rest; the prefix `starts-sha256:` says what was read.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from actors.latents.codec_loading import release_parts, text_parts
from infra.config import CodecConfig
from infra.errors import ConfigError
from infra.storage.object_store import ObjectStore
from infra.storage.package_files import resolve_file
from omniforcing_model.codecs.ltx2.single_file import Part, names_of
from omniforcing_model.weights.safetensors_file import SUFFIX, TensorFile, bytes_of

START_BYTES = 4096
CONFIG = ("config.json",)
# A tokenizer by itself, or among Gemma's weights.
WORDS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")


class StoredTensor(NamedTuple):
    """A tensor by its name in a file."""

    file: TensorFile
    name: str


def codec_digests(codec: CodecConfig) -> dict[str, str]:
    """A digest for each codec, and for LTX-2's text path.

    CheckpointError or ConfigError if a part is not where `codec` says, WeightsError if it is not
    safetensors.
    """
    if codec.kind == "tiny":
        return {"video": _file_digest(codec.video), "audio": _file_digest(codec.audio)}
    # What only decodes, as a vocoder does, has no say in a latent.
    (vae,) = release_parts(codec.video, "codec.video", ("vae",))
    (audio_vae,) = release_parts(codec.audio, "codec.audio", ("audio_vae",))
    return {
        "video": _part_digest(vae, "vae"),
        "audio": _part_digest(audio_vae, "audio_vae"),
        **text_digests(codec),
    }


def text_digests(codec: CodecConfig) -> dict[str, str]:
    """A digest for each part of LTX-2's text path; none where words have no weights.

    ConfigError if a part is not where `codec` says.
    """
    if codec.kind == "tiny":
        return {}
    text = text_parts(codec)
    return {
        "text": _digest_of(_folder_tensors(text.gemma), _matching_files(text.gemma, CONFIG)),
        "tokenizer": _digest_of({}, _matching_files(text.tokenizer, WORDS)),
        "connectors": _part_digest(text.connectors, "connectors"),
    }


def model_digest(folder: str | Path | None) -> str:
    """Digest of a language model's folder: weights by their first bytes, tokenizer whole.

    ConfigError if there is no such folder, or no weights in it.
    """
    place = Path(folder or "")
    tensors = _folder_tensors(place) if folder and place.is_dir() else {}
    if not tensors:
        raise ConfigError(
            f"expected the folder of a language model, got {str(folder)!r} without safetensors;"
            " set data.rewriter.model"
        )
    return _digest_of(tensors, _matching_files(place, (*CONFIG, *WORDS)))


def _file_digest(uri: str) -> str:
    path = resolve_file(uri)
    return ObjectStore(path.parent).digest(path.name)


def _part_digest(place: Path, part: Part) -> str:
    """Of a folder of diffusers, or of what belongs to `part` in LTX-2's single file."""
    if place.is_dir():
        return _digest_of(_folder_tensors(place), _matching_files(place, CONFIG))
    file = TensorFile(place)
    names = names_of(part, file.tensors)
    return _digest_of({name: StoredTensor(file, own) for name, own in names.items()}, ())


def _folder_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder, however they are spread over its files."""
    files = [TensorFile(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return {name: StoredTensor(file, name) for file in files for name in file.tensors}


def _matching_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sorted(files)


def _digest_of(tensors: Mapping[str, StoredTensor], files: Iterable[Path]) -> str:
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(f"{file.name} {file.stat().st_size}\n".encode())
        sha256.update(file.read_bytes())
    for name, (source, own) in sorted(tensors.items()):
        record = source.tensors[own]
        sha256.update(f"{name} {record.dtype} {record.shape}\n".encode())
        sha256.update(bytes_of(source.tensor(own))[:START_BYTES])
    return f"starts-sha256:{sha256.hexdigest()}"
