"""What `omniforcing evaluate` says about real clips, and about a model that has learned nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.config import RunConfig, SamplingConfig
from infra.stages import TRAINED
from infra.terminal.progress import SilentProgress
from omniforcing_model.beacons.metrics import measure_clip
from omniforcing_model.beacons.world import held_out_prompts, parse_caption
from pipelines.cli import main
from pipelines.evaluation.evaluate import Candidate, evaluate
from pipelines.evaluation.sampled_clips import ClipSampler, real_clips
from tests.worlds.streaming import write_streaming_world

SCORES = {"av_offset_ms_median", "rate_accuracy", "colour_accuracy", "pitch_accuracy"}
PROMPTS = [
    "a red disc flashes twice a second with a high beep",
    "a blue disc flashes once a second with a low beep",
    "a green disc flashes three times a second with a middle beep",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    overrides = ("sampling.teacher_steps=2", "data.seconds=2")
    return write_streaming_world(tmp_path_factory.mktemp("world"), *overrides)


def test_real_clips_pass_every_mark_after_h264_and_aac(world: tuple[Path, RunConfig]) -> None:
    scores = evaluate(world[1], [], held_out_prompts(12, 1), SilentProgress()).scores["real"]
    assert scores.av_offset_ms_median < 20
    assert scores.rate_accuracy == scores.colour_accuracy == scores.pitch_accuracy == 1.0
    assert scores.clips == 12


def test_a_real_clip_shows_what_its_prompt_asks(world: tuple[Path, RunConfig]) -> None:
    for prompt, clip in zip(PROMPTS, real_clips(world[1], PROMPTS, seed=3), strict=True):
        measured = measure_clip(clip.frames, clip.waveform, clip.sample_rate)
        beacon = parse_caption(prompt)
        assert (measured.colour, measured.pitch) == (beacon.colour, beacon.pitch)
        assert clip.prompt == prompt


def test_every_stage_answers_the_same_prompts_and_is_scored(
    world: tuple[Path, RunConfig],
) -> None:
    candidates = [Candidate(stage, stage, str(world[0])) for stage in TRAINED]
    evaluation = evaluate(world[1], candidates, PROMPTS, SilentProgress())
    values = evaluation.as_dict()
    assert list(values) == ["real", *TRAINED]
    assert all(scores.keys() >= SCORES for scores in values.values())
    assert {clip.prompt for clip in evaluation.samples.values()} == {PROMPTS[0]}


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_makes_whole_clips_that_depend_on_the_seed(
    world: tuple[Path, RunConfig], stage: str
) -> None:
    sampler = ClipSampler(world[1], stage, world[0])
    first, again, other = (next(iter(sampler.clips(PROMPTS[:1], seed))) for seed in (1, 1, 2))
    assert first.frames.shape == (49, 64, 64, 3)
    assert first.waveform.shape[0] == 2
    assert (first.frames == again.frames).all() and (first.waveform == again.waveform).all()
    assert (first.waveform != other.waveform).any()


@pytest.mark.parametrize(
    "setting",
    [
        "teacher_steps=3",
        "schedule_shift=0.5",
        "schedule_shift=null",
        "schedule_terminal=0.3",
        "negative_prompt=a red disc",
        "guidance_video=4.0",
        "guidance_audio=4.0",
        "stg_video=1.0",
        "stg_audio=1.0",
        "modality_video=3.0",
        "modality_audio=3.0",
        "rescale=0.7",
    ],
)
def test_every_setting_of_the_teachers_sampling_changes_its_clip(
    world: tuple[Path, RunConfig], setting: str
) -> None:
    folder, config = world
    name, _, value = setting.partition("=")
    plain = config.sampling.model_dump() | {"teacher_steps": 4, "stg_layers": [1]}
    clips = []
    for values in (plain, plain | {name: yaml.safe_load(value)}):
        sampling = SamplingConfig.model_validate(values)
        run = config.model_copy(update={"sampling": sampling})
        clips.append(next(iter(ClipSampler(run, "teacher", folder).clips(PROMPTS[:1], seed=1))))
    before, after = clips
    same_picture = (before.frames == after.frames).all()
    same_sound = (before.waveform == after.waveform).all()
    if name.endswith("_audio"):  # from the second step on the picture hears the other sound
        assert not same_sound
    elif name.endswith("_video"):
        assert not same_picture
    else:
        assert not same_picture and not same_sound


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_a_student_is_scored_in_the_precision_in_which_it_is_served(
    world: tuple[Path, RunConfig], precision: str
) -> None:
    if precision == "float8":
        pytest.importorskip("torchao", reason="needs the extra float8")
    folder, config = world
    sampling = config.sampling.model_copy(update={"student_precision": precision})
    run = config.model_copy(update={"sampling": sampling})
    exact, rounded = (
        next(iter(ClipSampler(each, "stage_3", folder).clips(PROMPTS[:1], seed=1)))
        for each in (config, run)
    )
    assert (exact.waveform != rounded.waveform).any()
    difference = np.linalg.norm(exact.waveform - rounded.waveform)
    assert difference < 0.5 * np.linalg.norm(exact.waveform)


def test_the_batch_a_prompt_is_in_does_not_change_its_clip(world: tuple[Path, RunConfig]) -> None:
    sampler = ClipSampler(world[1], "stage_3", world[0])
    together = list(sampler.clips(PROMPTS * 3, seed=5))
    alone = next(iter(sampler.clips(PROMPTS[:1], seed=5 + 6)))
    assert abs(together[6].frames.astype(int) - alone.frames.astype(int)).max() <= 1


def test_json_holds_only_the_stages_that_were_asked_for(
    world: tuple[Path, RunConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    codecs = [f"--set=codec.{name}={getattr(world[1].codec, name)}" for name in ("video", "audio")]
    model = f"stage_3={world[0]}"
    size = ["--set=model.layers=2", "--set=data.seconds=2"]
    assert main(["evaluate", "--prompts=2", "--models", model, "--json", *codecs, *size]) == 0
    assert set(json.loads(capfd.readouterr().out)) == {"real", "stage_3"}
