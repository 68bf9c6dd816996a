"""Files by URI, and configurations for processes that work in another folder."""

from pathlib import Path

import pytest

from infra.errors import CheckpointError
from infra.presets import load_preset
from infra.storage.package_files import resolve_file, with_absolute_places


def test_a_package_uri_lies_in_the_model_and_another_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_file("package://config.py").parts[-2:] == ("omniforcing_model", "config.py")
    assert resolve_file(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert resolve_file(f"~/{tmp_path.name}") == tmp_path


@pytest.mark.parametrize("uri", ["package://nothing", "/nowhere/at/all"])
def test_what_is_not_there_is_named(uri: str) -> None:
    with pytest.raises(CheckpointError, match=rf"expected a file at {uri}, got nothing \(.*\);"):
        resolve_file(uri)


def test_places_become_absolute_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_preset("tiny", ["codec.video=codecs/video", "data.rewriter.api_key_file=key"])
    absolute = with_absolute_places(config)
    assert absolute.codec.video == str(tmp_path / "codecs" / "video")
    assert absolute.codec.audio == config.codec.audio
    assert config.codec.audio.startswith("package://")
    assert absolute.data.rewriter.api_key_file == str(tmp_path / "key")
    assert absolute.data.model_copy(update={"rewriter": config.data.rewriter}) == config.data


@pytest.mark.parametrize(("kind", "is_place"), [("gemma", True), ("endpoint", False)])
def test_the_rewriters_model_is_a_place_for_gemma_and_a_name_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_place: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [f"data.rewriter.kind={kind}", "data.rewriter.model=gemma-3"]
    model = with_absolute_places(load_preset("tiny", sets)).data.rewriter.model
    assert model == (str(tmp_path / "gemma-3") if is_place else "gemma-3")
