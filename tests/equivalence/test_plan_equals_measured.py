"""The planned memory of a stage is what its ranks are measured to hold, to a tenth.

Small, by PyTorch's allocator; and, with a gigabyte and more on a rank, by what is resident.
"""

import pytest

from pipelines.planning.memory import stage_memory
from tests.worlds.measured_stage import measure, measured_run

GIGABYTE = 1e9
SMALL = [
    ("teacher", 2, 1, "zero_stage=3", "recomputes=false"),
    ("teacher", 2, 1, "zero_stage=1", "recomputes=true"),
    ("stage_1", 2, 1, "zero_stage=2", "recomputes=true", "precision=bfloat16"),
    ("stage_2", 1, 1, "zero_stage=2", "recomputes=false"),
    ("stage_3", 2, 1, "zero_stage=3", "recomputes=false"),
]
LARGE = [
    ("teacher", 1, 4, "zero_stage=1", "recomputes=true"),
    ("teacher", 2, 2, "zero_stage=3", "recomputes=false"),
    ("stage_1", 1, 2, "zero_stage=2", "recomputes=true"),
    ("stage_1", 2, 1, "zero_stage=3", "recomputes=true"),
    ("stage_2", 1, 2, "zero_stage=3", "recomputes=true"),
    ("stage_2", 2, 1, "zero_stage=1", "recomputes=false"),
    ("stage_3", 1, 1, "zero_stage=2", "recomputes=false"),
    ("stage_3", 2, 2, "zero_stage=3", "recomputes=true"),
]
WIDE = (
    "model.layers=16",
    "model.video={latent_channels: 4, heads: 8, head_dim: 64}",
    "model.audio={latent_channels: 3, heads: 4, head_dim: 64}",
)


def name(configuration):
    return " ".join(map(str, configuration))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("configuration", SMALL, ids=name)
def test_the_planned_peak_is_that_of_the_allocator(tmp_path, configuration):
    stage, ranks, clips, *settings = configuration
    config = measured_run(stage, ranks, clips, settings)
    planned = stage_memory(config, stage)
    fullest = max(rank["peak"] for rank in measure(config, stage, tmp_path, "alive"))
    assert planned.peak == pytest.approx(fullest, rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("configuration", LARGE, ids=name)
def test_the_planned_peak_of_a_gigabyte_is_what_is_resident(tmp_path, configuration):
    stage, ranks, clips, *settings = configuration
    config = measured_run(stage, ranks, clips, settings, WIDE)
    planned = stage_memory(config, stage)
    assert planned.peak > GIGABYTE
    fullest = max(rank["peak"] for rank in measure(config, stage, tmp_path, "resident"))
    assert planned.peak == pytest.approx(fullest, rel=0.1)
