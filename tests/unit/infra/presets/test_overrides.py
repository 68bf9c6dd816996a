"""Values over other values: what extends a preset, and what `--config` may name."""

from pathlib import Path

import pytest
import yaml

from infra.errors import ConfigError
from infra.presets import load_config, load_preset
from infra.presets.overrides import extend

BASE = {"model": {"layers": 4, "video": {"heads": 2}}, "sigmas": [1.0, 0.5]}


def over(values: dict[str, object], bases: dict[str, object] | None = None) -> object:
    return extend(values, "run.yaml", ({"base": BASE} | (bases or {})).__getitem__)


def test_an_extension_replaces_the_keys_it_names_and_keeps_the_others() -> None:
    values = {"extends": "base", "model": {"video": {"heads": 8}}, "sigmas": [1.0]}
    assert over(values) == {"model": {"layers": 4, "video": {"heads": 8}}, "sigmas": [1.0]}


def test_an_extension_may_extend_an_extension() -> None:
    middle = {"extends": "base", "model": {"layers": 6}}
    values = {"extends": "middle", "model": {"video": {"heads": 8}}}
    extended = over(values, {"middle": middle})
    assert extended == {"model": {"layers": 6, "video": {"heads": 8}}, "sigmas": [1.0, 0.5]}


def test_extending_in_a_circle_is_refused_and_the_circle_is_named() -> None:
    bases = {"a": {"extends": "b"}, "b": {"extends": "a"}}
    with pytest.raises(ConfigError, match="a -> b -> a"):
        over({"extends": "a"}, bases)


def run_file(folder: Path, **values: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_file_of_the_user_may_extend_a_preset(tmp_path: Path) -> None:
    config = load_config(run_file(tmp_path, extends="tiny", name="mine", data={"seconds": 7}))
    tiny = load_preset("tiny")
    data = tiny.data.model_copy(update={"seconds": 7})
    assert config == tiny.model_copy(update={"name": "mine", "data": data})


def test_a_file_that_extends_no_preset_is_refused_and_the_real_ones_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny.*tinny"):
        load_config(run_file(tmp_path, extends="tinny"))


def test_an_unknown_key_in_an_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.layer\b"):
        load_config(run_file(tmp_path, extends="tiny", model={"layer": 3}))


def test_an_override_reaches_what_an_extension_inherits(tmp_path: Path) -> None:
    path = run_file(tmp_path, extends="tiny", name="mine")
    assert load_config(path, ["serve.max_sessions=9"]).serve.max_sessions == 9
