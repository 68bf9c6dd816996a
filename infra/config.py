"""A whole run as one frozen value: model, data, stages, serving, cluster, tracking.

Values come from a preset (infra/presets/*.yaml) and `--set path=value`; an unknown key is an error.
Importing this loads neither torch nor ray.
"""

from typing import Literal

from pydantic import Field

from infra.claims import (
    ActorClaim,
    ActorResources,
    LaterPoolResources,
    PoolResources,
    SamplerResources,
    TeacherServerResources,
)
from infra.stages import ModelsConfig, StagesConfig
from omniforcing_model.config import FrozenConfig, ModelConfig


class SamplingConfig(FrozenConfig):
    """Sigma schedules (x_sigma = (1 - sigma) x0 + sigma eps), and the teacher's guidance, which is
    neutral at guidance 1, stg 0, modality 1, rescale 0 (omniforcing_model/sampling/guidance.py)."""

    teacher_steps: int = Field(gt=0)
    schedule_shift: float | None = Field(
        description="null: of the clip's video tokens, as diffusers has it"
    )
    schedule_terminal: float = Field(ge=0, lt=1)
    negative_prompt: str = Field(
        description="what guidance_video and guidance_audio push away from"
    )
    guidance_video: float = Field(ge=1)
    guidance_audio: float = Field(ge=1)
    stg_video: float = Field(ge=0, description="spatio-temporal guidance")
    stg_audio: float = Field(ge=0)
    stg_layers: tuple[int, ...] | None = Field(
        description="whose self-attention it weakens; null: those of LTX-2's authors"
    )
    modality_video: float = Field(
        ge=1, description="away from streams that do not attend to each other"
    )
    modality_audio: float = Field(ge=1)
    rescale: float = Field(ge=0, le=1, description="how far guidance keeps the deviation")
    student_sigmas: tuple[float, ...] = Field(min_length=1, description="descending, without the 0")
    student_precision: Literal["float32", "bfloat16", "float8"] = Field(
        description="of the streamed student; latents stay float32"
    )
    student_kernels: Literal["measured", "plain"] = Field(
        description="of the streamed student on a CPU: those that are fastest there, compiled and"
        " measured once per machine, or PyTorch's own; they differ in the last bits"
    )
    student_passes: Literal["captured", "plain"] = Field(
        description="captured: as CUDA graphs where there are any; plain: one by one, to debug"
    )


class SplitConfig(FrozenConfig):
    """Which windows of `data.seconds` a clip is cut into: each becomes a row."""

    kind: Literal["first", "fixed", "shots"] = Field(
        description="the first window; one after the other; or those without a cut inside"
    )
    shot_threshold: float = Field(gt=0, description="PySceneDetect's ContentDetector; 27 is usual")
    max_windows: int = Field(gt=0, description="of one clip; the rest is left out")


class GatesConfig(FrozenConfig):
    """When a clip or window is refused: it would be refused again (actors/clips/gates.py)."""

    max_seconds: float = Field(gt=0, description="longer clips are not decoded")
    max_file_mb: float = Field(gt=0, description="larger files are not opened")
    max_source_pixels: int = Field(gt=0, description="width times height before scaling")
    min_height: int = Field(
        gt=0, description="of the source's pictures; scaled up they would be blurred"
    )
    min_width: int = Field(gt=0, description="of the source's pictures, likewise")
    silence_dbfs: float = Field(
        lt=0, description="level (RMS) of a window's sound; quieter ones are left out"
    )
    max_clipped_share: float = Field(
        gt=0, le=1, description="share of a window's samples that are at full scale"
    )
    max_missing_sound_s: float = Field(
        gt=0, description="part of a window before its sound track begins, or after it ends"
    )
    max_frame_jitter: float = Field(
        gt=0, description="deviation of the frames' spacing in time, as a share of that spacing"
    )
    max_frozen_share: float = Field(
        gt=0, le=1, description="share of a window's frames that repeat the one before"
    )
    max_caption_chars: int = Field(gt=0, description="of a caption as it is given")

    def limit(self, name: str) -> float:
        """The value of the field `name`."""
        return float(getattr(self, name))


class RewriterConfig(FrozenConfig):
    """Who rewrites captions, and what a rewritten one must be like."""

    kind: Literal["grammar", "gemma", "endpoint"] = Field(
        description="the beacon world's grammar; Gemma 3 in this process; an OpenAI-compatible URL"
    )
    model: str | None = Field(description="gemma: its folder; endpoint: the name it serves")
    url: str | None = Field(description="endpoint: up to and including /v1")
    api_key_file: str | None = Field(description="endpoint: a file that holds the bearer key")
    batch: int = Field(gt=0, description="captions at a time")
    concurrency: int = Field(gt=0, description="requests of one actor at a time")
    timeout_s: float = Field(gt=0, description="of one request")
    retries: int = Field(ge=0, description="of a request that failed, with growing pauses")
    max_new_tokens: int = Field(gt=0)
    min_words: int = Field(gt=0)
    max_words: int = Field(gt=0)


class FrameSize(FrozenConfig):
    """Of pictures, in pixels."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)


class DataConfig(FrozenConfig):
    """What a training clip is, and how a dataset of them is made."""

    seconds: int = Field(gt=0, description="of a window; shorter clips are filtered")
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    buckets: tuple[FrameSize, ...] = Field(
        description="further sizes of a dataset: each clip is scaled to the size, of these and"
        " height x width, with the aspect ratio nearest to its own; a step trains on one of them",
    )
    split: SplitConfig
    gates: GatesConfig
    loudness_lufs: float | None = Field(
        description="sound is normalised to this integrated loudness; null: left as it is"
    )
    decode_timeout_s: float = Field(
        gt=0, description="processor time that a clip's survey, or a window of it, may take"
    )
    rewriter: RewriterConfig
    rows_per_shard: int = Field(gt=0)
    exclude: tuple[str, ...] = Field(
        description="ids of rows, or URIs of clips, that training leaves out of a dataset"
    )

    @property
    def sizes(self) -> tuple[FrameSize, ...]:
        """All sizes that rows of a dataset may have."""
        return (FrameSize(height=self.height, width=self.width), *self.buckets)

    @property
    def largest_size(self) -> FrameSize:
        """The size with most points, which takes most memory."""
        return max(self.sizes, key=lambda size: size.height * size.width)


class VideoDecodeConfig(FrozenConfig):
    """How LTX-2's video decoder, which looks ahead, decodes a stream."""

    mode: Literal["shipped", "causal"] = Field(
        default="shipped", description="causal: exact in blocks, not what the weights were made for"
    )
    left: int | None = Field(
        default=None,
        ge=0,
        description="latents decoded again before a block; null: the state is carried over, at no"
        " cost",
    )
    right: int = Field(default=1, ge=0, description="latents held back until more are known")


class CodecConfig(FrozenConfig):
    """Which codecs and text encoder, and where their weights are."""

    kind: Literal["tiny", "ltx2"]
    video: str = Field(
        description="URI of the video codec; package:// is inside this package; ltx2: the folder of"
        " a release in diffusers' layout, its vae, or LTX-2's single file"
    )
    audio: str = Field(description="likewise; ltx2: with audio_vae and vocoder, or the former")
    text: str | None = Field(
        default=None, description="ltx2: a folder with text_encoder and tokenizer, or Gemma's own"
    )
    connectors: str | None = Field(
        default=None, description="ltx2: like video, with connectors; null: they are beside `text`"
    )
    text_tokens: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of video VAE and text encoder on a GPU; elsewhere float32"
    )
    video_decode: VideoDecodeConfig = VideoDecodeConfig()


class PreprocessingConfig(FrozenConfig):
    """How preprocessing spreads its work; the rows do not depend on it."""

    max_rounds: int = Field(
        gt=0, description="over rows that have no outcome because actors died; then the run fails"
    )
    decoded_mib: int = Field(gt=0, description="of pictures that a decoder holds at a time")
    pieces_per_actor: int = Field(gt=0, description="that the rows left are shared out in")
    actors_per_writer: int = Field(gt=0, description="whose rows one task writes")


class ServeConfig(FrozenConfig):
    """The streaming endpoint."""

    layout: Literal["pair", "colocated"] = Field(
        description="pair: a process for each half; colocated: one for both, claimed as"
        " cluster.video_stream (cluster.audio_stream is not used)"
    )
    pairs: int = Field(gt=0, description="of halves; colocated: processes that hold both")
    host: str
    hosts: tuple[str, ...] = Field(
        description="names by which clients and pages may know this server, besides addresses,"
        " localhost and the machine's own"
    )
    port: int = Field(ge=0, le=65535)
    max_sessions: int = Field(gt=0, description="open streams; more are refused with 429")
    max_seconds: int = Field(gt=0)
    max_prompt_chars: int = Field(gt=0)
    max_queued_blocks: int = Field(gt=0, description="blocks computed ahead of a slow reader")
    max_lead_s: float = Field(gt=0, description="media sent ahead of a player in real time")
    exchange_timeout_s: float = Field(gt=0)
    pairing_interval_s: float = Field(gt=0, description="between a replica's looks for a partner")
    failed_joins: int = Field(
        ge=0, description="in a row that a replica may have; after more it is replaced"
    )
    replayed_blocks: int | None = Field(
        gt=0,
        description="of a stream that goes on elsewhere, besides its first: null all that its next"
        " block sees, which gives the same bits; fewer are sooner there, and nearly the same",
    )
    remembered_streams: int = Field(ge=0, description="past ones whose status is still served")
    session_timeout_s: float = Field(gt=0)
    resume_s: float = Field(
        ge=0, description="that a reader who left may come back; meanwhile its pair is another's"
    )
    api_key_file: str | None = Field(description="file with one bearer key per line; null: open")


class PlacementConfig(FrozenConfig):
    """Where the roles of a training stage compute."""

    teacher: Literal["local", "remote"] = Field(
        description="of stages with a critic: in the training workers, or in those of"
        " cluster.teacher_server, which they ask; it computes the same"
    )


class ClusterConfig(FrozenConfig):
    """Resources per actor, under the actor's name."""

    address: str | None = Field(description="null: start a local cluster and stop it at the end")
    local_cpus: int = Field(gt=0, description="logical CPUs of a local cluster")
    training_restarts: int = Field(
        ge=0, description="of the workers when processes or machines die, from their checkpoint"
    )
    placement: PlacementConfig
    clip_surveyor: PoolResources
    clip_decoder: PoolResources
    latent_encoder: LaterPoolResources
    caption_rewriter: LaterPoolResources
    text_encoder: LaterPoolResources
    teacher_sampler: SamplerResources
    distillation_worker: ActorResources
    teacher_server: TeacherServerResources
    gateway: ActorClaim
    prompt_encoder: ActorResources
    video_stream: ActorClaim
    audio_stream: ActorClaim


class DemoConfig(FrozenConfig):
    """`omniforcing demo`: everything once, and small."""

    clips: int = Field(gt=0, description="rendered; the user's own come on top")
    steps: int = Field(gt=0, description="of every stage's short pass")
    learning_rate: float = Field(gt=0, description="small: the models it starts from are trained")
    trajectories: int = Field(gt=0)
    prompts: int = Field(gt=0, description="held-out prompts that every model is scored on")
    prompt: str = Field(min_length=1, description="streamed, and shown side by side")
    seconds: int = Field(gt=0, description="of the stream")


class OutputConfig(FrozenConfig):
    """Who may write an output, a dataset or a run folder."""

    lease_s: float = Field(
        gt=0,
        description="a run that its output has not heard of for so long, six renewals, may be"
        " replaced by another; one whose process has ended on the same machine may be at once",
    )


class PlanningConfig(FrozenConfig):
    """What `omniforcing plan` assumes of clips, machines and prices.

    `omniforcing bench preprocess --stages` measures the times.
    """

    clips: int = Field(gt=0, description="that costs are planned for")
    windows_per_clip: float = Field(gt=0)
    source_seconds: float = Field(gt=0, description="of a clip")
    decode_s_per_second: float = Field(
        gt=0, description="on one core; 1080p H.264 to the size of the run"
    )
    survey_s_per_second: float = Field(
        gt=0, description="on one core; decoded small, for the shots"
    )
    gpu_tflops: float = Field(gt=0, description="dense, in bfloat16")
    gpu_bandwidth_tb_s: float = Field(gt=0)
    gpu_share: float = Field(gt=0, le=1, description="of both that is reached")
    link_gb_s: float = Field(
        gt=0, description="that a GPU receives from the other workers of a stage of training"
    )
    gemma_pass_s: float = Field(
        ge=0, description="at least, in process: kernels of 48 layers launched one by one"
    )
    gpu_hour: float = Field(ge=0, description="its price")
    core_hour: float = Field(ge=0, description="likewise")

    @property
    def operations_per_second(self) -> float:
        """Of one GPU, in bfloat16."""
        return self.gpu_tflops * 1e12 * self.gpu_share

    @property
    def bytes_per_second(self) -> float:
        """That one GPU reads of its memory."""
        return self.gpu_bandwidth_tb_s * 1e12 * self.gpu_share


class TrackingConfig(FrozenConfig):
    """Where MLflow keeps runs, models and lineage."""

    uri: str | None = Field(description="null: SQLite in the run's own folder")
    experiment: str


class RunConfig(FrozenConfig):
    """Everything one run is made of."""

    name: str
    model: ModelConfig
    codec: CodecConfig
    sampling: SamplingConfig
    data: DataConfig
    preprocessing: PreprocessingConfig
    stages: StagesConfig
    models: ModelsConfig
    serve: ServeConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    output: OutputConfig
    planning: PlanningConfig
    demo: DemoConfig | None = Field(description="null: there is none of this model")
