"""What `omniforcing plan` shows before anything is started."""

import subprocess
import sys

from infra.presets import load_preset
from pipelines.plan import plan


def test_the_plan_names_every_stage_with_its_claim_and_steps() -> None:
    planned = plan(load_preset("tiny", ["cluster.distillation_worker.replicas=3"]))
    distill = {stage["stage"]: stage for stage in planned["jobs"]["distill"]}
    assert list(distill) == ["teacher", "stage_1", "trajectories", "stage_2", "stage_3"]
    assert distill["stage_2"]["replicas"] == 3
    assert planned["jobs"]["preprocess"][-1]["stage"] == "shards"


def test_generator_steps_follow_from_the_critic_ratio() -> None:
    overrides = ["stages.stage_3.optimiser.steps=100", "stages.stage_3.critic_ratio=4"]
    planned = plan(load_preset("tiny", overrides), ("distill",))
    stage_3 = planned["jobs"]["distill"][-1]
    assert (stage_3["steps"], stage_3["generator_steps"]) == (100, 25)
    assert set(planned["jobs"]) == {"distill"}


def test_a_colocated_server_needs_one_kind_of_replica() -> None:
    stages = plan(load_preset("tiny", ["serve.layout=colocated"]), ("serve",))["jobs"]["serve"]
    assert [stage["stage"] for stage in stages].count("video_stream") == 1
    assert "audio_stream" not in [stage["stage"] for stage in stages]


def test_planning_loads_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from pipelines.cli import main; status = main(['plan', '--json']);"
        "heavy = {'torch', 'ray', 'mlflow'} & set(sys.modules);"
        "sys.exit(status or (3 if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
