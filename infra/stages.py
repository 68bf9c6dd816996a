"""The stages of a distillation: what each one is, in one table, and its settings.

    teacher -> stage_1 -> trajectories -> stage_2 -> stage_3

A field of StagesConfig is a stage: its name and, in the annotation, its settings and its StageSpec.
Workers, plans, commands, evaluation and reports take names, order and facts from here. A new stage
is a field of StagesConfig and one of ModelsConfig, its values in the presets, and its objective.

Importing this loads no torch, so that planning stays quick: an objective is named by text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from infra.errors import ConfigError
from omniforcing_model.config import FrozenConfig

GENERATOR, CRITIC, TEACHER = "generator", "critic", "teacher"
LATENTS: Literal["latents"] = "latents"
PROMPTS: Literal["prompts"] = "prompts"
TRAJECTORIES: Literal["trajectories"] = "trajectories"
Sampler = Literal["guided", "few_steps", "streamed"]


@dataclass(frozen=True)
class StageSpec:
    """What a stage is, whatever its settings.

    A stage's critic starts from the teacher, also in stage III, as the references' fake score does:
    what it has learned of stage I's samples says nothing of streamed ones.

    `title` and `about`: for reports. `objective`: module and class of its losses, below
    omniforcing_model.distillation; without one nothing is trained: the stage's job makes rows.
    `starts_from`: by role, the stage whose model it starts from; other roles start from random
    weights. `frozen`: roles that do not learn. `reads`: rows of the dataset, their prompts alone
    where samples begin with noise, or trajectories. `sampling`: keys of the run's `sampling` that
    decide the result. `sampler`: how clips are drawn from its model, as a teacher, in few steps, or
    streamed.
    """

    title: str
    about: str
    objective: str | None = None
    starts_from: Mapping[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    reads: Literal["latents", "prompts", "trajectories"] = LATENTS
    sampling: tuple[str, ...] = ()
    sampler: Sampler | None = None

    @property
    def is_trained(self) -> bool:
        """Whether workers train it, so that it leaves a model."""
        return self.objective is not None


class TrainedRole(NamedTuple):
    """A role that learns: in every `every`-th step, `updates` times in all."""

    name: str
    every: int
    updates: int
    learning_rate: float


# Where a rollout's passes read weights that are spread.
RolloutWeights = Literal["sharded", "node", "whole"]


class OptimiserConfig(FrozenConfig):
    """AdamW and what surrounds it, for one stage."""

    steps: int = Field(
        ge=0,
        description="updates of the model; in stages with a critic those of the critic, as the"
        " released code counts: its generator has steps / critic_ratio. 0: nothing is trained, the"
        " model is a link to the one that the generator starts from",
    )
    batch: int = Field(gt=0, description="clips per step over all workers")
    micro_batch: int = Field(gt=0, description="clips per forward pass; randomness is drawn for it")
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    decay_share: float = Field(ge=0, le=1, description="of the stage, at its end: down to rate 0")
    betas: tuple[float, float]
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    ema_decay: float = Field(
        ge=0, lt=1, description="of the average that is published; it follows from the first update"
    )
    zero_stage: Literal[1, 2, 3] = Field(
        description="what of a role is spread over workers: 1 its optimiser, 2 gradients too, 3"
        " weights too, of frozen roles as well"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="of weights, gradients and products; losses, the weights and moments that AdamW"
        " updates, and the average are float32 either way"
    )
    recomputes: bool = Field(
        description="keep a layer's inputs alone for the backward pass, and run it again there"
    )
    checkpoint_every: int = Field(gt=0)
    seed: int


class TrainedStageConfig(FrozenConfig):
    """Settings that every trained stage has."""

    optimiser: OptimiserConfig

    @property
    def roles(self) -> tuple[TrainedRole, ...]:
        """The roles that learn, in the order of their turns in a step."""
        optimiser = self.optimiser
        return (TrainedRole(GENERATOR, 1, optimiser.steps, optimiser.learning_rate),)

    @property
    def rollouts_read(self) -> RolloutWeights:
        """Where passes of the generator without gradients read weights that are spread."""
        return "sharded"

    @property
    def null_prompt(self) -> str:
        """What stands where a caption is left out: no words."""
        return ""


class TeacherStageConfig(TrainedStageConfig):
    """Flow-matching pre-training of the bidirectional teacher."""

    caption_dropout: float = Field(ge=0, lt=1, description="share of unconditional samples")
    audio_weight: float = Field(gt=0)


class DistributionMatchingConfig(TrainedStageConfig):
    """Stages I and III: DMD with a critic (fake score) that learns beside the generator."""

    critic_learning_rate: float = Field(gt=0)
    critic_ratio: int = Field(gt=0, description="critic updates per generator update")
    guidance_video: float = Field(ge=1, description="of the real score; 1: none")
    guidance_audio: float = Field(ge=1)
    negative_prompt: str = Field(
        description="what the real score's guidance pushes away from; empty: no words"
    )
    audio_weight: float = Field(gt=0)
    min_sigma_step: int = Field(ge=0, le=999, description="of a 1000-step schedule")
    max_sigma_step: int = Field(ge=0, le=999)

    @property
    def null_prompt(self) -> str:
        """The negative prompt: the references guide the real score as they sample the teacher."""
        return self.negative_prompt

    @property
    def roles(self) -> tuple[TrainedRole, ...]:
        """The critic learns in every step; after it, in some of them, its generator."""
        steps, ratio = self.optimiser.steps, self.critic_ratio
        return (
            TrainedRole(CRITIC, 1, steps, self.critic_learning_rate),
            TrainedRole(GENERATOR, ratio, steps // ratio, self.optimiser.learning_rate),
        )


class SelfForcingConfig(DistributionMatchingConfig):
    """Stage III: the student streams, and may stream longer than the clips that it learns from."""

    rollout_seconds: tuple[int, int] | None = Field(
        description="least and most seconds that it streams, drawn for each step; the last"
        " data.seconds of a longer stream are scored. null: data.seconds"
    )
    gradient_blocks: int | None = Field(
        gt=0, description="of the stream's last blocks that carry gradients; all where null"
    )

    rollout_weights: RolloutWeights = Field(
        description="what passes without gradients read where zero_stage is 3: sharded, from all"
        " ranks; node, a copy cut over the ranks of each node; whole, a copy on every rank"
    )

    @property
    def rollouts_read(self) -> RolloutWeights:
        """As the configuration says."""
        return self.rollout_weights

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        least, most = self.rollout_seconds or (1, 1)
        if not 1 <= least <= most:
            raise ValueError(f"expected 1 <= least <= most rollout_seconds, got {least} and {most}")
        return self


class TrajectoriesConfig(FrozenConfig):
    """ODE trajectories, a Ray Data job: what stage II regresses.

    `guided` false: of the stage I model, one step per sigma of the student. true: of a teacher,
    with all its guided steps; the states nearest to the student's sigmas are kept.
    """

    guided: bool
    precision: Literal["float32", "bfloat16"] = Field(
        description="of the model's weights and products; what steps add up to stays float32"
    )
    states: Literal["float32", "float16"] = Field(
        description="as which states are stored; float16 has the size of bfloat16 and is eight"
        " times as fine, where the difference of two states is divided by a tenth and less"
    )
    count: int = Field(gt=0)
    batch: int = Field(gt=0, description="trajectories per forward pass")
    rows_per_shard: int = Field(gt=0, description="trajectories per file")
    seed: int


class CausalOdeStageConfig(TrainedStageConfig):
    """Stage II: causal regression on the trajectories (paper equation 6)."""

    target: Literal["velocity", "clean"] = Field(
        description="velocity: between neighbouring states, which is the stage I model's own where"
        " it took one step between them; clean: the trajectory's end, where states were picked"
        " from many steps"
    )
    audio_weight: float = Field(gt=0)


# What decides the noise levels of distribution matching.
_MATCHING_SAMPLING = ("student_sigmas", "schedule_shift", "schedule_terminal")


class StagesConfig(FrozenConfig):
    """The pipeline of paper figure 2, with the pre-training that `tiny` needs before it."""

    teacher: Annotated[
        TeacherStageConfig,
        StageSpec(
            title="Teacher",
            about="bidirectional, many guided steps",
            objective="teacher_pretraining.TeacherPretraining",
            sampler="guided",
        ),
    ]
    stage_1: Annotated[
        DistributionMatchingConfig,
        StageSpec(
            title="Stage I",
            about="bidirectional, few steps",
            objective="stage_1_bidirectional_dmd.BidirectionalDMD",
            starts_from={GENERATOR: "teacher", CRITIC: "teacher", TEACHER: "teacher"},
            frozen=(TEACHER,),
            reads=PROMPTS,
            sampling=_MATCHING_SAMPLING,
            sampler="few_steps",
        ),
    ]
    trajectories: Annotated[
        TrajectoriesConfig,
        StageSpec(
            title="Trajectories",
            about="the stage I model's ODE, from noise to clean",
            starts_from={GENERATOR: "stage_1"},
            reads=PROMPTS,
            sampling=("student_sigmas",),
        ),
    ]
    stage_2: Annotated[
        CausalOdeStageConfig,
        StageSpec(
            title="Stage II",
            about="causal, regressed on trajectories, streamed",
            objective="stage_2_causal_ode.CausalOdeRegression",
            starts_from={GENERATOR: "stage_1"},
            reads=TRAJECTORIES,
            sampler="streamed",
        ),
    ]
    stage_3: Annotated[
        SelfForcingConfig,
        StageSpec(
            title="Stage III",
            about="causal, self-forced, streamed",
            objective="stage_3_self_forcing.SelfForcingDMD",
            starts_from={GENERATOR: "stage_2", CRITIC: "teacher", TEACHER: "teacher"},
            frozen=(TEACHER,),
            reads=PROMPTS,
            sampling=_MATCHING_SAMPLING,
            sampler="streamed",
        ),
    ]

    def of(self, stage: str) -> FrozenConfig:
        """The settings of a stage; ConfigError if there is none of that name."""
        if stage not in STAGES:
            raise ConfigError(
                f"expected a stage of {', '.join(STAGES)}, got {stage!r}; name one of them"
            )
        settings: FrozenConfig = getattr(self, stage)
        return settings

    @property
    def with_steps(self) -> tuple[str, ...]:
        """The stages that train something, in order."""
        return tuple(name for name in TRAINED if self.trained_stage(name).optimiser.steps)

    def trained_stage(self, stage: str) -> TrainedStageConfig:
        """The settings of a stage that is trained; ConfigError if there is none of that name."""
        settings = self.of(stage)
        if not isinstance(settings, TrainedStageConfig):
            raise ConfigError(
                f"expected a trained stage of {', '.join(TRAINED)}, got {stage!r}; name one of them"
            )
        return settings


# Every stage by its name, in the order in which they are made.
STAGES: Mapping[str, StageSpec] = {
    name: next(fact for fact in stage.metadata if isinstance(fact, StageSpec))
    for name, stage in StagesConfig.model_fields.items()
}
# Names of the stages that leave a model. That of the last one is the student, which is served.
TRAINED = tuple(name for name, spec in STAGES.items() if spec.is_trained)
STUDENT = TRAINED[-1]


class ModelsConfig(FrozenConfig):
    """The model each stage left behind, by URI: what is evaluated, and where a demo starts."""

    teacher: str
    stage_1: str
    stage_2: str
    stage_3: str

    def of(self, stage: str) -> str:
        """URI of the model of a trained stage."""
        uri: str = getattr(self, stage)
        return uri

    @property
    def student(self) -> str:
        """URI of the student: what is served where no other model is named."""
        return self.of(STUDENT)
