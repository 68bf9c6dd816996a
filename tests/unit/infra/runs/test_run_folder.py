from pathlib import Path

from infra.runs.run_folder import result_folder, stage_folder


def test_a_trained_stage_keeps_its_model_beside_its_checkpoints():
    assert stage_folder("run", "stage_1") == Path("run/stages/stage_1")
    assert result_folder("run", "stage_1") == Path("run/stages/stage_1/model")


def test_rows_that_a_job_makes_lie_in_the_run_folder_itself():
    assert result_folder("run", "trajectories") == Path("run/trajectories")
