"""Find files by URI: those that ship with the package, and those of the user."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TypeVar

from infra.config import RunConfig
from infra.errors import CheckpointError
from omniforcing_model.config import FrozenConfig

Section = TypeVar("Section", bound=FrozenConfig)

PACKAGE_SCHEME = "package://"
_PACKAGE = "omniforcing_model"
_CODEC_PLACES = ("video", "audio", "text", "connectors")


def resolve_file(uri: str) -> Path:
    """The file or folder that `uri` names.

    `package://tiny_weights/...` lies inside the installed package, anything else is a path.
    CheckpointError if nothing is there.
    """
    if uri.startswith(PACKAGE_SCHEME):
        path = Path(str(resources.files(_PACKAGE))) / uri.removeprefix(PACKAGE_SCHEME)
    else:
        path = Path(uri).expanduser()
    if not path.exists():
        raise CheckpointError(f"expected a file at {uri}, got nothing ({path}); check the path")
    return path


def with_absolute_places(config: RunConfig) -> RunConfig:
    """`config` for processes that work in another folder, as those of Ray do: codecs, and the
    rewriter's model and key."""
    rewriter = config.data.rewriter
    local = ("model", "api_key_file") if rewriter.kind == "gemma" else ("api_key_file",)
    data = config.data.model_copy(update={"rewriter": _make_absolute(rewriter, local)})
    codec = _make_absolute(config.codec, _CODEC_PLACES)
    return config.model_copy(update={"codec": codec, "data": data})


def _make_absolute(section: Section, names: Iterable[str]) -> Section:
    values = section.model_dump(include=set(names))
    places = {name: _absolute(uri) for name, uri in values.items() if uri is not None}
    return section.model_copy(update=places)


def _absolute(uri: str) -> str:
    if uri.startswith(PACKAGE_SCHEME):
        return uri
    return str(Path(uri).expanduser().absolute())
