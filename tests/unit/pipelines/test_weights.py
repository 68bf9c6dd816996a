"""Checkpoints are inspected, verified and converted from the command line, and never half."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from infra.errors import ConfigError
from infra.runs.provenance import read_model_manifest
from infra.terminal.progress import SilentProgress
from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model
from omniforcing_model.weights.stated_family import StatedFamily
from pipelines.cli import main
from pipelines.weights import Conversion, convert, inspect, verify

STUDENT = Path("omniforcing_model/tiny_weights/student")
TENSORS, PARAMETERS, SINKS = 343, 2_012_584, 16
NAME = "model.diffusion_model.transformer_blocks.2.attn1.to_k.weight"


@pytest.fixture
def student() -> Path:
    return Path(__file__).parents[3] / STUDENT


@pytest.fixture
def single(student: Path, tmp_path: Path) -> Path:
    """The shipped student with LTX-2's names and header."""
    path = tmp_path / "student.safetensors"
    convert(student, Conversion(path, "single-file"), StatedFamily(), SilentProgress())
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["weights", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def rewrite(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replace one tensor, or leave it out."""
    metadata = metadata_of(path)
    tensors = load_file(path)
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, path, metadata)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_inspect_prints_what_a_checkpoint_is(
    student: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = run(capfd, "inspect", str(student))
    assert facts["format"] == "ours"
    assert facts["profile"] == {
        "pairs": "split",
        "frequencies": "float64",
        "gate_timestep_scale": 1000.0,
    }
    assert (facts["tensors"], facts["parameters"]) == (TENSORS, PARAMETERS)
    assert facts["dtypes"] == {"F16": TENSORS}
    parts = facts["parameters_by_part"]
    assert sum(count for of_stream in parts.values() for count in of_stream.values()) == PARAMETERS
    assert parts["video"]["feed_forward"] > parts["audio"]["feed_forward"]
    assert facts["missing"] == facts["unexpected"] == facts["misshaped"] == []


def test_inspect_lists_what_is_wrong_instead_of_failing(
    single: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rewrite(single, NAME, None)
    facts = run(capfd, "inspect", str(single))
    assert facts["format"] == "single-file"
    assert facts["missing"] == [NAME]
    assert main(["weights", "inspect", str(single)]) == 0
    assert f"missing     1: {NAME}" in capfd.readouterr().out


def test_verify_reads_everything_and_gives_the_digest(
    student: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = run(capfd, "verify", str(student))
    assert summary["tensors_read"] == TENSORS
    manifest = read_model_manifest(student)
    assert manifest is not None
    assert summary["digest"] == manifest.digest


def test_verify_may_read_a_sample(student: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert 5 <= run(capfd, "verify", str(student), "--sample=10")["tensors_read"] <= 10


def test_numbers_that_are_not_finite_are_named(single: Path) -> None:
    tensor = load_file(single)[NAME]
    tensor[3, 4] = float("nan")
    rewrite(single, NAME, tensor)
    with pytest.raises(WeightsError, match=rf"others in 1 tensors: {NAME}"):
        verify(single, StatedFamily(), SilentProgress(), None)


def test_a_conversion_and_back_leaves_the_file_as_it_was(
    student: Path, single: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = run(capfd, "convert", str(single), str(tmp_path / "again"))
    assert summary["left_out"] == summary["fresh"] == []
    assert folder_digest(tmp_path / "again") == folder_digest(student)


def test_diffusers_has_no_place_for_sinks_and_the_result_says_so(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = run(capfd, "convert", str(student), str(tmp_path / "ltx"), "--to=diffusers")
    assert summary["left_out"] == ["audio.sinks.tokens"]
    assert inspect(tmp_path / "ltx", StatedFamily())["tensors"] == TENSORS - 1
    run(capfd, "convert", str(tmp_path / "ltx"), str(tmp_path / "bf16"), "--dtype=bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "bf16" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_a_layout_with_sinks_is_given_to_a_checkpoint_without_one(
    single: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(single)
    del tensors["model.diffusion_model.audio_sink_tokens"]
    save_file(tensors, single, {"config": metadata_of(single)["config"]})
    target = str(tmp_path / "with_sinks")
    summary = run(capfd, "convert", str(single), target, "--layout=paper:16")
    assert summary["fresh"] == ["audio.sinks.tokens"]
    model = load_model(Path(target))
    assert model.config.layout.sinks == SINKS


def test_an_own_layout_is_not_replaced(student: Path, tmp_path: Path) -> None:
    arguments = ["weights", "convert", str(student), str(tmp_path / "x"), "--layout=released"]
    assert main(arguments) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing command"),
        (["inspect", "nowhere"], 1, "expected a model folder or a safetensors file at nowhere"),
        (["verify", "cut.safetensors"], 1, "cut off"),
        (["inspect", "pickled.pt"], 1, "a pickle archive"),
        (
            ["inspect", "STUDENT", "--family=omniforcing-5s"],
            1,
            "split instead of interleaved",
        ),
        (["inspect", "STUDENT", "--family=ltx-3"], 2, "expected a family of ltx-2, omni"),
        (["inspect", "STUDENT", "--override-family"], 2, "expected --family"),
        (["verify", "STUDENT", "--sample=0"], 2, "Invalid value"),
        (["convert", "STUDENT", "there"], 2, "expected a new target"),
        (["convert", "STUDENT", "new", "--to=single-file"], 2, "ends with .safetensors"),
        (["convert", "STUDENT", "new.safetensors"], 2, "expected the name of a folder"),
        (["convert", "STUDENT", "new", "--dtype=int8"], 2, "expected a dtype of float32"),
        (["convert", "STUDENT", "new", "--layout=paper:many"], 2, "expected --layout paper"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    status: int,
    message: str,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(
        (student / "model.safetensors").read_bytes()[:100_000]
    )
    torch.save({}, tmp_path / "pickled.pt")
    words = [str(student) if argument == "STUDENT" else argument for argument in arguments]
    assert main(["weights", *words]) == status
    output, shown = capfd.readouterr()
    assert output == ""
    assert shown.startswith("error: ")
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_conversion_that_fails_leaves_nothing(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrunk.safetensors"
    path.write_bytes(single.read_bytes())
    before = sorted(tmp_path.iterdir())
    shrinking = _ShrinkingProgress(path)
    with pytest.raises(WeightsError, match="shrank while it was read"):
        convert(path, Conversion(tmp_path / "target", "ours"), StatedFamily(), shrinking)
    assert sorted(tmp_path.iterdir()) == before


class _ShrinkingProgress(SilentProgress):
    """Cuts the file that is being converted, when its tensors are about to be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def stage(self, name: str, total: int | None) -> Any:
        self._path.write_bytes(self._path.read_bytes()[:200_000])
        return super().stage(name, total)


def test_a_target_that_is_there_is_never_replaced(student: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new target"):
        convert(student, Conversion(tmp_path / "kept", "ours"), StatedFamily(), SilentProgress())
    assert (tmp_path / "kept").read_text() == "mine"
