"""Load a preset: a YAML file of this folder, or one of the user's, with overrides on top.

A file may say `extends: NAME`: it then holds only what differs from the preset of that name.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from infra.config import RunConfig
from infra.errors import ConfigError
from infra.presets.overrides import apply_overrides, extend


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_preset(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The preset `name` with `path=value` overrides applied; ConfigError if either is off."""
    return _validate(preset_values(name), overrides, f"preset {name}")


def preset_values(name: str) -> Any:
    """What the preset `name` and those it extends say, as plain values; ConfigError if there is no
    such preset."""
    return _with_bases(_preset_values(name), f"preset {name}", (name,))


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A whole run from the YAML file at `path`, with overrides applied."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"expected a readable YAML file, got {path}: {reason}") from error
    return _validate(_with_bases(values, str(path)), overrides, str(path))


def with_changes(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with `path=value` overrides applied; ConfigError if one is off."""
    return _validate(config.model_dump(mode="json"), overrides, config.name)


def _preset_values(name: str) -> Any:
    if name not in preset_names():
        raise ConfigError(
            f"expected one of the presets {', '.join(preset_names())}, got {name!r};"
            " name one of them or pass a file with --config"
        )
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _with_bases(values: Any, source: str, names: tuple[str, ...] = ()) -> Any:
    return extend(values, source, _preset_values, names)


def _validate(values: Any, overrides: Sequence[str], source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(apply_overrides(values, overrides))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r:.60})"
            for item in error.errors()
        )
        raise ConfigError(f"{source} is not a valid run: {problems}") from error
