"""Find files by URI: those that ship with the package, and those of the user."""

from importlib import resources
from pathlib import Path

from infra.errors import CheckpointError

PACKAGE_SCHEME = "package://"
_PACKAGE = "omniforcing_model"


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
