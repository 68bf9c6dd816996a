"""What the benchmarks of preprocessing measure, on small numbers."""

import time

import pytest

from infra.presets import load_preset
from pipelines.benchmarks.cluster_memory import peak_memory
from pipelines.benchmarks.plain_preprocessing import PlainPreprocessing
from pipelines.benchmarks.preprocess_bench import bench_preprocess, write_corpus
from pipelines.benchmarks.preprocess_dry_run import STEPS, dry_run
from pipelines.benchmarks.tables import dry_run_table, preprocess_table


def test_memory_that_was_held_meanwhile_is_in_the_peak():
    with peak_memory() as peak:
        held = bytearray(b"x" * (80 << 20))
        time.sleep(1.2)
        del held
    assert peak.value.driver_mb > 80
    assert peak.value.all_mb >= peak.value.driver_mb


def test_clips_of_the_corpus_all_become_rows_of_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.benchmarks.preprocess_bench.CLIP_SIDE", 128)
    write_corpus(tmp_path / "clips", 6, seconds=1)
    loop = PlainPreprocessing(load_preset("tiny", ["data.seconds=1"]), str(tmp_path / "clips"))
    rows = list(loop.rows())
    assert len({row["clip_digest"] for row in rows}) == 6
    assert all(row["rewritten"] for row in rows)


@pytest.mark.ray
def test_a_dry_run_makes_a_dataset_of_every_row(ray_local):
    run = dry_run(load_preset("tiny"), 300, lambda *_, **__: None)
    assert list(run.seconds) == list(STEPS)
    assert run.rows == 300
    assert run.driver_mb > 0
    assert "300 rows without media" in dry_run_table(run)


@pytest.mark.preprocess
@pytest.mark.timeout(1800)
def test_ray_is_nearly_as_fast_as_the_loop_and_two_cores_nearly_twice_as_fast():
    made = bench_preprocess(load_preset("tiny"), 80, 3, lambda: None)
    assert "times the loop" in preprocess_table(made)
    assert made.one_worker_share >= 0.9
    assert made.two_core_share >= 1.7
    few, _, many = made.memory
    assert many.rows >= 10 * few.rows
    assert many.all_mb < 1.25 * few.all_mb
    assert many.driver_mb < 1.1 * few.driver_mb
