"""Two checkouts stream the same in turn, and what is reported is how much faster one is."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.model.against import (
    OURS,
    BlockTime,
    Contestant,
    bench_against,
    row_of,
)
from pipelines.benchmarks.tables.engine import against_table


def test_how_much_faster_is_a_ratio_of_medians() -> None:
    ours = [BlockTime(clock, worked) for clock, worked in ((1.0, 2.0), (9.0, 2.0), (2.0, 2.0))]
    other = [BlockTime(clock, worked) for clock, worked in ((3.0, 3.0), (3.0, 9.0), (90.0, 3.0))]
    row = row_of(10, "float32", 2, list(zip(ours, other, strict=True)))
    assert (row.block_s, row.other_block_s) == (2.0, 3.0)
    assert (row.faster, row.faster_by_processor_time) == (1.5, 1.5)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a checkout .*, got .*worktree"):
        bench_against(load_preset("tiny"), tmp_path, [2], [1], lambda: None)


def test_sources_that_do_not_stream_are_named(tmp_path: Path, capfd: object) -> None:
    with pytest.raises(ConfigError, match=f"expected sources in {tmp_path} that stream"):
        Contestant(tmp_path, "no such preset", "float32", 1)


@pytest.mark.thorough
def test_a_checkout_against_itself_gives_a_row_for_each_dtype_length_and_number_of_threads() -> (
    None
):
    turns = []
    result = bench_against(load_preset("tiny"), OURS, [2, 3], [1], lambda: turns.append("both"))
    longest = BlockLayout(load_preset("tiny").model.layout).blocks_for_seconds(3)
    assert len(turns) == 2 * longest
    assert [(row.dtype, row.seconds, row.threads) for row in result.rows] == [
        ("float32", 2, 1),
        ("float32", 3, 1),
        ("bfloat16", 2, 1),
        ("bfloat16", 3, 1),
    ]
    assert all(row.block_s > 0 and row.faster > 0 for row in result.rows)
    assert result.commit == result.other_commit
    table = against_table(result)
    assert "bfloat16, 3 s, 1 thread" in table
