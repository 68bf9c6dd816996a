"""`--set path.to.key=value`: typed by YAML, refused where the path does not exist."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import yaml

from infra.errors import ConfigError


def apply_overrides(values: Any, overrides: Sequence[str]) -> Any:
    """A copy of the nested mapping `values` with each `a.b=c` put in place.

    ConfigError if an override has no `=`, or names a key that does not exist (the message lists
    the keys that do).
    """
    result = deepcopy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"expected --set path=value, got {override!r}; write a.b=c")
        *parents, last = path.split(".")
        place = result
        for part in parents:
            place = _existing(place, part, path)
        _existing(place, last, path)
        place[last] = yaml.safe_load(text)
    return result


def _existing(place: Any, key: str, path: str) -> Any:
    if not isinstance(place, dict) or key not in place:
        known = ", ".join(place) if isinstance(place, dict) else "none, it is a value"
        raise ConfigError(f"unknown key {key!r} in {path!r}; the keys there are: {known}")
    return place[key]
