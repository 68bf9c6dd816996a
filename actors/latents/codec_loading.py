"""The codecs and the text encoder that a run's configuration names."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from infra.config import CodecConfig, RunConfig
from infra.errors import CheckpointError, ConfigError
from infra.storage.package_files import resolve_file
from omniforcing_model.codecs.ltx2.audio_codec import Ltx2AudioCodec
from omniforcing_model.codecs.ltx2.text_encoder import Ltx2TextEncoder
from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec, VideoDecoding
from omniforcing_model.codecs.text_encoder import TextEncoder
from omniforcing_model.codecs.tiny.audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny.text_encoder import TinyTextEncoder
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.errors import WeightsError


class TextParts(NamedTuple):
    """Where the parts of LTX-2's text path are: folders, or for connectors the single file."""

    gemma: Path
    tokenizer: Path
    connectors: Path


def own_device() -> str:
    """Where this process computes: an actor of Ray on the GPU that it claims, others on any."""
    if not torch.cuda.is_available():
        return "cpu"
    # Takes half a second that only a machine with a GPU needs.
    import ray  # noqa: PLC0415

    if ray.is_initialized() and (context := ray.get_runtime_context()).get_actor_id():
        # An actor without a claim sees every GPU, and would take memory that others count on.
        return "cuda" if context.get_accelerator_ids()["GPU"] else "cpu"
    return "cuda"


def load_video_codec(codec: CodecConfig, device: str = "cpu") -> TinyVideoCodec | Ltx2VideoCodec:
    """The video codec, on `device`; ConfigError if its weights are not where `codec` says."""
    if codec.kind == "tiny":
        return TinyVideoCodec.load(resolve_file(codec.video)).to(device)
    (path,) = release_parts(codec.video, "codec.video", ("vae",))
    how = codec.video_decode
    decoding = VideoDecoding(how.mode, how.left, how.right)
    try:
        return Ltx2VideoCodec.load(path, decoding, _dtype(codec, device)).to(device)
    except WeightsError as error:
        raise ConfigError(f"codec.video: {error}") from error


def load_audio_codec(codec: CodecConfig, device: str = "cpu") -> TinyAudioCodec | Ltx2AudioCodec:
    """The audio codec, on `device`; ConfigError if its weights are not where `codec` says."""
    if codec.kind == "tiny":
        return TinyAudioCodec.load(resolve_file(codec.audio)).to(device)
    vae, vocoder = release_parts(codec.audio, "codec.audio", ("audio_vae", "vocoder"))
    try:
        return Ltx2AudioCodec.load(vae, vocoder).to(device)
    except WeightsError as error:
        raise ConfigError(f"codec.audio: {error}") from error


def load_text_encoder(config: RunConfig, device: str = "cpu") -> TextEncoder:
    """The text encoder, on `device`; ConfigError if its weights are not where the run says."""
    codec = config.codec
    if codec.kind == "tiny":
        return TinyTextEncoder(codec.text_tokens, config.model.text_width)
    parts, dtype = text_parts(codec), _dtype(codec, device)
    try:
        encoder = Ltx2TextEncoder.load(*parts, codec.text_tokens, dtype)
    except WeightsError as error:
        raise ConfigError(f"codec.text: {error}") from error
    return encoder.to(device)


def text_parts(codec: CodecConfig) -> TextParts:
    """Where LTX-2's text path is; ConfigError if it is not where `codec` says."""
    if codec.text is None:
        raise ConfigError(
            "expected codec.text to name the folder with text_encoder, tokenizer and connectors,"
            " got null; set it, or take codec.kind tiny"
        )
    gemma, tokenizer = release_parts(codec.text, "codec.text", ("text_encoder", "tokenizer"))
    uri = codec.connectors or str(gemma.parent)
    (connectors,) = release_parts(uri, "codec.connectors", ("connectors",))
    return TextParts(gemma, tokenizer, connectors)


def release_parts(uri: str, field: str, names: tuple[str, ...]) -> list[Path]:
    """Where the parts `names` of a release are; ConfigError if one of them is not there.

    `uri` is its folder in diffusers' layout, the folder of the first part with the others beside
    it, or the single file, which holds all of them.
    """
    if find_spec("diffusers") is None or find_spec("transformers") is None:
        raise ConfigError(
            "expected diffusers and transformers for codec.kind ltx2, got an installation without;"
            " install omniforcing-on-ray[ltx2]"
        )
    try:
        place = resolve_file(uri)
    except CheckpointError as error:
        raise ConfigError(f"{field}: {error}; weights of LTX-2 are yours to obtain") from error
    if place.is_file():
        return [place] * len(names)
    # A folder with a config.json is a part itself; a release has none at its top.
    first = place if (place / "config.json").is_file() else place / names[0]
    folders = [first, *(_other_part(first, name) for name in names[1:])]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError(
            f"{field}: expected the folders {', '.join(names)} in {place}, got no"
            f" {', '.join(missing)}; point to a release in diffusers' layout, or to its single file"
        )
    return folders


def _other_part(first: Path, name: str) -> Path:
    """The part `name` of a release; Gemma by itself keeps its tokenizer among its weights."""
    return first if (first / f"{name}_config.json").is_file() else first.parent / name


def _dtype(codec: CodecConfig, device: str) -> torch.dtype:
    """Half precision saves time and memory on a GPU alone."""
    wide = codec.dtype == "float32" or torch.device(device).type == "cpu"
    return torch.float32 if wide else torch.bfloat16
