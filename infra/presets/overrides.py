"""Values over other values: a file over the preset it extends, and `--set path.to.key=value`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import yaml

from infra.errors import ConfigError

EXTENDS = "extends"


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
            place = _require_key(place, part, path)
        _require_key(place, last, path)
        place[last] = yaml.safe_load(text)
    return result


def _require_key(place: Any, key: str, path: str) -> Any:
    if not isinstance(place, dict) or key not in place:
        known = (
            f"a key of {', '.join(place)}" if isinstance(place, dict) else "no key below a value"
        )
        raise ConfigError(f"expected {known} in {path!r}, got {key!r}; correct the path")
    return place[key]


def extend(
    values: Any, source: str, read_base: Callable[[str], Any], ancestors: tuple[str, ...] = ()
) -> Any:
    """`values` over those they extend by `extends: NAME`, which may extend others in turn.

    Mappings are merged key by key; anything else takes the place of the base's.

    Args:
        values: a mapping, with `extends` or without.
        source: what the values are, for messages.
        read_base: the values of a name; raises ConfigError for one that it does not know.
        ancestors: names on the way here.
    """
    if not isinstance(values, dict) or EXTENDS not in values:
        return values
    base = values[EXTENDS]
    if base in ancestors:
        raise ConfigError(
            f"expected {source} to extend what does not lead back to it, got"
            f" {' -> '.join((*ancestors, base))}; write one of them out in full"
        )
    own = {key: value for key, value in values.items() if key != EXTENDS}
    return _merge(extend(read_base(base), source, read_base, (*ancestors, base)), own)


def _merge(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    result = dict(base)
    for key, value in own.items():
        result[key] = _merge(base[key], value) if key in base else value
    return result
