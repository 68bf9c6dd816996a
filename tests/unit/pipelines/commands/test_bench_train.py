"""`omniforcing bench train`, as somebody at a shell runs it."""

import json

import pytest
import torch

from pipelines.cli import main
from tests.worlds.training import SMALL

ONE_STAGE = [f"stages.{name}.optimiser.steps=0" for name in ("teacher", "stage_1", "stage_3")]
QUICK = [word for change in (*SMALL, *ONE_STAGE) for word in ("--set", change)]


def test_what_is_measured_on_a_cpu_is_kept_and_shown(tmp_path, capfd):
    out = tmp_path / "results" / "train.json"
    words = ["bench", "train", *QUICK, "--device", "cpu", "--layers", "1", "--json"]
    assert main([*words, "--out", str(out)]) == 0
    result = json.loads(capfd.readouterr().out)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["result"] == result
    assert record["settings"]["what"] == "train"
    assert record["settings"]["device"] == "cpu"
    assert result["measured"]
    assert list(result["stages"]) == ["stage_2"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a GPU here")
def test_without_a_gpu_it_says_that_nothing_was_measured(capfd):
    words = ["bench", "train", *QUICK, "--layers", "1"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["device"] == "meta"
    assert not result["measured"]
    assert main(words) == 0
    assert "nothing was measured" in capfd.readouterr().out
