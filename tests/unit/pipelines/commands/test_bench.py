"""`omniforcing bench`, as somebody at a shell runs it."""

import json
from pathlib import Path

import pytest

from pipelines.cli import main

QUICK = ["--seconds", "2", "--set", "model.layers=1"]


def test_a_benchmark_leaves_its_record_with_what_it_takes_to_repeat_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "stream.json"
    status = main(["bench", "stream", "--config", "tiny", *QUICK, "--json", "--out", str(out)])
    result = json.loads(capfd.readouterr().out)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0
    assert record["result"] == result
    assert record["settings"]["config"] == "tiny"
    assert record["settings"]["model"]["layers"] == 1
    assert record["commit"]
    assert record["is_dirty"] in (True, False)
    assert record["torch"]["threads"]
    assert record["machine"]["cores"]
    assert record["versions"]["torch"]


def test_people_get_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", *QUICK, "--dtype", "both", "--baselines", "static"]) == 0
    shown = capfd.readouterr().out
    for line in (
        "cached, rolling (ours)",
        "as released",
        "with our products",
        "large square product",
        "bfloat16",
    ):
        assert line in shown


def test_counts_need_no_memory_and_no_time(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", "--config", "paper", "--device", "meta", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["parameters"] > 18e9
    assert main(["bench", "model", "--config", "paper", "--device", "meta"]) == 0
    assert "18.876 billion" in capfd.readouterr().out


def test_kernels_are_counted_without_a_gpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kernels.json"
    quick = ["--preset", "paper", "--set", "model.layers=1"]
    assert main(["bench", "kernels", *quick, "--json", "--out", str(out)]) == 0
    result = json.loads(capfd.readouterr().out)
    assert json.loads(out.read_text(encoding="utf-8"))["result"] == result
    assert sum(result["by_kind"].values()) == result["kernels_per_block"]
    assert result["host_syncs"] == 0
    assert main(["bench", "kernels", *quick]) == 0
    shown = capfd.readouterr().out
    for line in (
        f"{result['calls_per_block']:,}",
        "region add_norm",
        "video.layers.self_attention",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["model", "--baselines", "static,ours"], "recompute"),
        (["stream", "--device", "meta"], "bench model"),
        (["decode", "--device", "meta"], "bench model"),
        (["preprocess", "--rows", "5", "--stages"], "got both"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    options: list[str], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    shown = capfd.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert word in shown[0]
