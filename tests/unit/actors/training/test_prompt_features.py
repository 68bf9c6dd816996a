"""A prompt that no row has is encoded once for all ranks, before there is a model."""

import pytest
import torch
from torch import distributed as dist

from actors.latents.codec_loading import load_text_encoder
from actors.training.distillation_worker import DistillationWorker, StageWork
from actors.training.prompt_features import features_of
from infra.errors import CheckpointError, ConfigError
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_trajectories

pytestmark = pytest.mark.timeout(600)
PROMPT = "a green disc"
# A configuration whose text encoder cannot be loaded.
WITHOUT_ENCODER = ("codec.kind=ltx2", "codec.text=null")


def encoded(folder, ranks_without):
    """The features that each rank gets, or what it is told."""
    is_without = dist.get_rank() in ranks_without
    config = small_run(*WITHOUT_ENCODER) if is_without else small_run()
    try:
        return [stream.tolist() for stream in features_of(config, PROMPT)]
    except ConfigError as error:
        return str(error)


@pytest.mark.thorough
def test_one_rank_alone_needs_the_encoder_and_all_get_its_features(tmp_path):
    one, other = run_in_ranks(encoded, 2, tmp_path, {"ranks_without": [1]}, timeout_s=300)
    expected = load_text_encoder(small_run(), torch.device("cpu")).encode([PROMPT])
    assert one == other == [stream.tolist() for stream in expected]


@pytest.mark.thorough
def test_an_encoder_that_is_not_there_is_told_on_every_rank(tmp_path):
    one, other = run_in_ranks(encoded, 2, tmp_path, {"ranks_without": [0]}, timeout_s=300)
    assert one == other
    assert "expected codec.text to name the folder" in one


@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_3"])
def test_a_worker_encodes_before_it_reads_a_model(tmp_path, stage):
    clips = write_clips(small_run(), tmp_path / "clips")
    starts = dict.fromkeys(("generator", "critic", "teacher"), str(tmp_path / "nowhere"))
    for overrides, error in ((WITHOUT_ENCODER, ConfigError), ((), CheckpointError)):
        config = small_run(*overrides)
        work = StageWork(stage, config, str(tmp_path / "run"), clips, starts, ())
        with pytest.raises(error, match=r"codec\.text" if overrides else "nowhere"):
            DistillationWorker(work)


def test_a_stage_of_trajectories_needs_no_encoder(tmp_path):
    rows = write_trajectories(small_run(), tmp_path / "rows")
    starts = {"generator": str(tmp_path / "nowhere")}
    config = small_run(*WITHOUT_ENCODER)
    work = StageWork("stage_2", config, str(tmp_path / "run"), rows, starts, ())
    with pytest.raises(CheckpointError, match="nowhere"):
        DistillationWorker(work)
