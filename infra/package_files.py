"""Find files by URI: those that ship with the package, and those of the user."""

from importlib import resources
from pathlib import Path

from infra.config import RunConfig
from infra.errors import CheckpointError

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


def with_absolute_codecs(config: RunConfig) -> RunConfig:
    """`config` for processes that work in another folder, as those of Ray do."""
    given = config.codec.model_dump(include=set(_CODEC_PLACES))
    places = {name: _absolute(uri) for name, uri in given.items() if uri is not None}
    return config.model_copy(update={"codec": config.codec.model_copy(update=places)})


def _absolute(uri: str) -> str:
    if uri.startswith(PACKAGE_SCHEME):
        return uri
    return str(Path(uri).expanduser().absolute())
