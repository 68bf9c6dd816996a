"""The table of stages: it agrees with the settings, the models and the objectives it names."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.errors import ConfigError
from infra.presets import load_preset, preset_names
from infra.stages import (
    GENERATOR,
    PROMPTS,
    STAGES,
    STUDENT,
    TRAINED,
    TRAJECTORIES,
    DistributionMatchingConfig,
    ModelsConfig,
    StagesConfig,
    TrainedStageConfig,
)

TABLE = Path(__file__).resolve().parents[3] / "infra" / "stages.py"
# A stage after the others, as somebody would add it: two fields of one file.
FOURTH = """
    stage_4: Annotated[
        SelfForcingConfig,
        StageSpec(
            title="Stage IV",
            about="once more",
            objective="stage_3_self_forcing.SelfForcingDMD",
            starts_from={GENERATOR: "stage_3", CRITIC: "teacher", TEACHER: "teacher"},
            frozen=(TEACHER,),
            reads=PROMPTS,
            sampling=_MATCHING_SAMPLING,
            sampler="streamed",
        ),
    ]

    def of(self, stage: str) -> FrozenConfig:
"""
# Runs `omniforcing` with the module in argv[1] as the table of stages.
WITH_TABLE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("infra.stages", sys.argv[1])
sys.modules["infra.stages"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
exec(sys.argv[2])
"""


def test_names_and_order_are_those_of_the_settings():
    assert list(STAGES) == ["teacher", "stage_1", "trajectories", "stage_2", "stage_3"]
    assert TRAINED == ("teacher", "stage_1", "stage_2", "stage_3")
    assert STUDENT == "stage_3"
    assert tuple(ModelsConfig.model_fields) == TRAINED


def test_a_trained_stage_has_an_optimiser_and_a_sampler_and_the_others_have_neither():
    for name, spec in STAGES.items():
        trained = issubclass(StagesConfig.model_fields[name].annotation, TrainedStageConfig)
        assert spec.is_trained is trained is (spec.sampler is not None), name


def test_a_stage_starts_from_and_reads_what_earlier_stages_have_made():
    names = list(STAGES)
    for place, (name, spec) in enumerate(STAGES.items()):
        assert set(spec.starts_from.values()) <= set(names[:place]) & set(TRAINED), name
        if spec.reads == TRAJECTORIES:
            assert TRAJECTORIES in names[:place], name


def test_a_stage_reads_prompts_alone_where_it_samples_from_noise():
    for name, spec in STAGES.items():
        settings = StagesConfig.model_fields[name].annotation
        matches = issubclass(settings, DistributionMatchingConfig)
        assert (spec.reads == PROMPTS) is (matches or not spec.is_trained), name


@pytest.mark.parametrize("preset", preset_names())
def test_a_role_learns_or_is_frozen_and_every_stage_has_a_generator(preset):
    stages = load_preset(preset).stages
    for name in TRAINED:
        learning = [role.name for role in stages.trained_stage(name).roles]
        assert GENERATOR in learning
        assert not set(learning) & set(STAGES[name].frozen)
        assert set(STAGES[name].starts_from) <= {*learning, *STAGES[name].frozen}


def test_a_critic_learns_in_every_step_and_its_generator_once_in_a_ratio():
    overrides = [
        "stages.stage_1.optimiser.steps=11",
        "stages.stage_1.optimiser.learning_rate=0.5",
        "stages.stage_1.critic_ratio=4",
        "stages.stage_1.critic_learning_rate=0.25",
    ]
    stages = load_preset("tiny", overrides).stages
    assert stages.trained_stage("stage_1").roles == (
        ("critic", 1, 11, 0.25),
        ("generator", 4, 2, 0.5),
    )
    optimiser = stages.trained_stage("stage_2").optimiser
    assert stages.trained_stage("stage_2").roles == (
        ("generator", 1, optimiser.steps, optimiser.learning_rate),
    )


def test_an_unknown_stage_is_refused_and_the_real_ones_listed():
    stages = load_preset("tiny").stages
    with pytest.raises(ConfigError, match=r"teacher, stage_1, trajectories, .*got 'stage_4'"):
        stages.of("stage_4")
    with pytest.raises(ConfigError, match=r"teacher, stage_1, stage_2, .*got 'trajectories'"):
        stages.trained_stage(TRAJECTORIES)


def test_the_student_is_the_model_of_the_last_stage():
    models = load_preset("tiny", ["models.stage_3=out/a", "models.stage_2=out/b"]).models
    assert models.student == models.of("stage_3") == "out/a"
    assert models.of("stage_2") == "out/b"


@pytest.fixture(scope="module")
def with_a_fourth(tmp_path_factory):
    """Runs a program in which the table has a fourth stage; also the run's configuration."""
    folder = tmp_path_factory.mktemp("fourth")
    before = "\n    def of(self, stage: str) -> FrozenConfig:\n"
    text = TABLE.read_text(encoding="utf-8")
    assert before in text and "    stage_3: str\n" in text
    text = text.replace(before, FOURTH).replace(
        "    stage_3: str\n", "    stage_3: str\n    stage_4: str\n"
    )
    table, config = folder / "stages.py", folder / "run.yaml"
    table.write_text(text, encoding="utf-8")
    values = load_preset("tiny").model_dump(mode="json")
    for section in ("stages", "models"):
        values[section]["stage_4"] = values[section]["stage_3"]
    config.write_text(yaml.safe_dump(values), encoding="utf-8")

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", WITH_TABLE, str(table), program, str(config)],
            cwd=TABLE.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_a_stage_added_to_the_table_is_planned_and_has_a_recipe(with_a_fourth):
    program = """
from pathlib import Path
from infra.presets import load_config
from infra.runs.stage_recipe import stage_recipe
from pipelines.planning.plan import plan
config = load_config(Path(sys.argv[3]))
planned = plan(config, ("distill",))
last = planned["jobs"]["distill"][-1]
print(last["stage"], last["takes"], sep="|")
print("stage_4" in planned["stages"])
print(*stage_recipe(config, "stage_4", ())["sampling"])
"""
    assert with_a_fourth(program).splitlines() == [
        "stage_4|dataset, stage_3, teacher",
        "True",
        "student_sigmas schedule_shift schedule_terminal",
    ]


@pytest.mark.thorough
def test_a_stage_added_to_the_table_is_trained_evaluated_and_streamed_last(with_a_fourth):
    program = """
from pathlib import Path
from actors.training.stage_objectives import stage_objective
from infra.presets import load_config
from pipelines.demo.demo import short_pass, starting_models
from pipelines.evaluation.evaluate import configured_models
from pipelines.training.stage_plan import START_ROLES
config = load_config(Path(sys.argv[3]))
print(type(stage_objective(config, "stage_4")).__name__)
print(configured_models(config)[-1].name, START_ROLES[-1])
print(*starting_models(config), short_pass(config).stages.trained_stage("stage_4").optimiser.steps)
from pipelines.commands import distill
print(distill.TRAINED[-1])
"""
    assert with_a_fourth(program).splitlines() == [
        "SelfForcingDMD",
        "stage_4 stage_4.generator",
        "teacher.generator stage_1.generator stage_2.generator stage_3.generator"
        f" {load_preset('tiny').demo.steps}",
        "stage_4",
    ]
