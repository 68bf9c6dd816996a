"""Where the stages of a run keep what they make, below the folder that all workers share."""

from pathlib import Path

from infra.stages import STAGES


def model_name(run: str, stage: str) -> str:
    """What the model of a stage is called, in its manifest and in MLflow's registry.

    run: the name of the run's configuration.
    """
    return f"{run}-{stage}"


def stage_folder(run: str | Path, stage: str) -> Path:
    """Folder of a trained stage's checkpoints, losses and model."""
    return Path(run) / "stages" / stage


def result_folder(run: str | Path, stage: str) -> Path:
    """Folder of what a stage leaves: its model, or the rows that its job has made."""
    return stage_folder(run, stage) / "model" if STAGES[stage].is_trained else Path(run) / stage
