"""What the benchmarks of preprocessing measure, on small numbers."""

import sys
import time

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.machine.cluster_memory import peak_memory
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.preprocessing.plain_preprocessing import PlainPreprocessing
from pipelines.benchmarks.preprocessing.preprocess_bench import (
    SEQUENCE,
    Timing,
    bench_preprocess,
    quiet_runs,
    share_of,
    write_corpus,
)
from pipelines.benchmarks.preprocessing.preprocess_dry_run import STEPS, dry_run
from pipelines.benchmarks.preprocessing.preprocess_stages import STAGES, bench_stages
from pipelines.benchmarks.stand_ins.random_text_models import (
    random_connectors,
    random_gemma,
    word_tokenizer,
)
from pipelines.benchmarks.tables.preprocessing import (
    dry_run_table,
    preprocess_table,
    stages_table,
)
from pipelines.planning.preprocess_costs import GEMMA_PARAMETERS, preprocess_costs


def test_memory_that_was_held_meanwhile_is_in_the_peak():
    with peak_memory() as peak:
        held = bytearray(b"x" * (80 << 20))
        time.sleep(1.2)
        del held
    assert peak.value.driver_mb > 80
    assert peak.value.all_mb >= peak.value.driver_mb


def test_clips_of_the_corpus_all_become_rows_of_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.benchmarks.preprocessing.preprocess_bench.CLIP_SIDE", 128)
    write_corpus(tmp_path / "clips", 6, seconds=1)
    loop = PlainPreprocessing(load_preset("tiny", ["data.seconds=1"]), str(tmp_path / "clips"))
    rows = list(loop.rows())
    assert len({row["clip_digest"] for row in rows}) == 6
    assert all(row["rewritten"] for row in rows)


def repetition(one_worker, two_workers, two_loops):
    rates = {"one_worker": one_worker, "two_workers": two_workers, "two_loops": two_loops}
    loops = iter((1.0, 3.0, 1.0, 1.0, 1.0, 2.0))
    return [Timing(rates.get(name) or next(loops, 1.0), 0.0) for name in SEQUENCE]


def test_a_graph_is_compared_with_the_loops_before_and_after_it():
    runs = [repetition(one_worker=1.0, two_workers=3.0, two_loops=4.0)]
    assert share_of(runs, "one_worker") == 1.0 / 2
    assert share_of(runs, "two_workers") == 3.0 / 1.5
    assert share_of(runs, "two_loops") == 4.0 / 2


def test_repetitions_in_which_others_used_the_second_core_are_not_quiet():
    alone, crowded = (repetition(1.0, 3.0, two_loops) for two_loops in (3.8, 3.2))
    assert quiet_runs([crowded, alone, crowded]) == [alone]


@pytest.mark.ray
def test_a_dry_run_makes_a_dataset_of_every_row(ray_local):
    run = dry_run(load_preset("tiny"), 300, lambda *_, **__: None)
    assert list(run.seconds) == list(STEPS)
    assert run.rows == 300
    assert run.driver_mb > 0
    assert "300 rows without media" in dry_run_table(run)


@pytest.fixture
def small_clip(monkeypatch):
    for name, value in (("CLIP_HEIGHT", 144), ("CLIP_WIDTH", 256), ("CLIP_SECONDS", 1)):
        monkeypatch.setattr(f"pipelines.benchmarks.preprocessing.preprocess_stages.{name}", value)


def test_every_stage_of_a_run_is_timed_beside_the_plan(small_clip):
    config = load_preset("tiny")
    bench = bench_stages(config, 1, lambda: None)
    planned = preprocess_costs(config)["stages"]
    assert [stage.stage for stage in bench.stages] == [cost["stage"] for cost in planned]
    assert len(bench.stages) == STAGES
    for stage, cost in zip(bench.stages, planned, strict=True):
        assert stage.measured_s > 0, stage.stage
        assert stage.expected_s == cost["seconds_per_unit"]
    assert [stage.weights for stage in bench.stages] == ["-", "-", *["the run's"] * 3]
    assert "clip_surveyor, a clip" in stages_table(bench)


@pytest.mark.parity
def test_models_that_are_not_there_are_not_timed_without_a_gpu(small_clip):
    if torch.cuda.is_available():
        pytest.skip("a GPU gets random ones")
    config = load_preset("paper", ["data.height=64", "data.width=96", "data.seconds=1"])
    bench = {stage.stage: stage for stage in bench_stages(config, 1, lambda: None).stages}
    assert bench["latent_encoder"].weights == "random"
    for name in ("caption_rewriter", "text_encoder"):
        assert (bench[name].measured_s, bench[name].weights) == (None, "none here")


@pytest.mark.parity
def test_random_models_of_the_text_have_the_released_shapes():
    meta = torch.device("meta")
    gemma = random_gemma(meta)
    text = sum(weight.numel() for weight in gemma.model.language_model.parameters())
    embedded = gemma.get_input_embeddings().weight.numel()
    assert text - embedded == pytest.approx(GEMMA_PARAMETERS, rel=0.1)
    assert gemma.dtype == torch.bfloat16
    assert random_connectors(meta).config.caption_channels == 3840
    words = word_tokenizer()(["a red disc", "beep"], padding=True)
    assert [len(row) for row in words["input_ids"]] == [3, 3]


@pytest.mark.quiet
@pytest.mark.timeout(1800)
def test_ray_is_nearly_as_fast_as_the_loop_and_two_cores_nearly_twice_as_fast(tmp_path):
    config, clips = load_preset("tiny"), 50
    bench = bench_preprocess(config, clips, 3, lambda: None)
    table = preprocess_table(bench)
    # What it was, also of a test that passes.
    sys.stdout.write(table)
    assert "times the loop" in table
    settings = {"what": "preprocess", "clips": clips}
    write_record(
        tmp_path / "preprocess.json", record_of(config, settings, bench.model_dump(mode="json"))
    )
    assert bench.one_worker_share >= 0.9
    assert bench.two_core_share >= 1.7, (
        f"{bench.quiet} of {bench.repetitions} repetitions were quiet"
    )
    few, _, many = bench.memory
    assert many.rows >= 10 * few.rows
    assert many.all_mb < 1.25 * few.all_mb
    assert many.driver_mb < 1.1 * few.driver_mb
