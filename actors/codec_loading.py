"""The codecs and the text encoder that a run's configuration names."""

from infra.config import CodecConfig, RunConfig
from infra.errors import ConfigError
from infra.package_files import resolve_file
from omniforcing_model.codecs.text_encoder import TextEncoder
from omniforcing_model.codecs.tiny_audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny_text_encoder import TinyTextEncoder
from omniforcing_model.codecs.tiny_video_codec import TinyVideoCodec


def load_video_codec(codec: CodecConfig) -> TinyVideoCodec:
    """The video codec; ConfigError for a kind that has none yet."""
    _require_tiny(codec)
    return TinyVideoCodec.load(resolve_file(codec.video))


def load_audio_codec(codec: CodecConfig) -> TinyAudioCodec:
    """The audio codec; ConfigError for a kind that has none yet."""
    _require_tiny(codec)
    return TinyAudioCodec.load(resolve_file(codec.audio))


def load_text_encoder(config: RunConfig) -> TextEncoder:
    """The text encoder; ConfigError for a kind that has none yet."""
    _require_tiny(config.codec)
    return TinyTextEncoder(config.codec.text_tokens, config.model.text_width)


def _require_tiny(codec: CodecConfig) -> None:
    if codec.kind != "tiny":
        raise ConfigError(
            f"expected codec.kind tiny, got {codec.kind}: LTX-2's codecs and text encoder cannot be"
            " loaded yet; `omniforcing plan` works with this preset, running it does not"
        )
