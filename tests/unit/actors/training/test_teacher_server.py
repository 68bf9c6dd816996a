"""What a teacher in a process of its own answers, and which texts it has to be told again."""

from collections import Counter

import pytest
import torch

from actors.training.role_engine import FrozenRole
from actors.training.start_weights import made_network, start_weights
from actors.training.teacher_server import (
    MissingTexts,
    TeacherServer,
    TeacherWork,
    question_of,
    text_digest,
)
from infra.errors import ConfigError
from omniforcing_model.distillation.real_score import NoisedSamples, predict_guided
from omniforcing_model.per_stream import PerStream
from tests.worlds.training import latent_counts, small_run, write_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, of which either can be the teacher."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(small_run(), folder / str(seed), seed) for seed in (0, 1)]


def server_of(config, kept_prompts=8):
    claim = config.cluster.teacher_server.model_copy(update={"kept_prompts": kept_prompts})
    return TeacherServer(claim)


def samples_of(config, seed=0, rows=2):
    """Noised samples, each with a prompt of its own, away from the same words."""
    drawn = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=drawn)

    model, counts, tokens = config.model, latent_counts(config), config.codec.text_tokens
    null = random(1, tokens, model.text_width).expand(rows, -1, -1)
    return NoisedSamples(
        PerStream(
            random(rows, counts.video, model.video.latent_channels, 1, 1),
            random(rows, counts.audio, model.audio.latent_channels),
        ),
        torch.linspace(0.2, 0.9, rows),
        PerStream(*(random(rows, tokens, model.text_width) for _ in range(2))),
        PerStream(null, null),
        PerStream(3.0, 5.0),
    )


def assert_same_bits(one, other):
    for stream in ("video", "audio"):
        assert torch.equal(getattr(one, stream), getattr(other, stream)), stream


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2])
def test_it_answers_bit_for_bit_as_the_role_in_a_worker(models, precision, rows):
    config = small_run(f"stages.stage_1.optimiser.precision={precision}")
    optimiser = config.stages.trained_stage("stage_1").optimiser
    samples = samples_of(config, rows=rows)
    start = start_weights(config, "stage_1", "teacher", models[0])
    role = FrozenRole(made_network(start, optimiser, "cpu"), optimiser)
    question, texts = question_of(samples)
    answer = server_of(config).predict(TeacherWork(config, "stage_1", models[0]), question, texts)
    assert_same_bits(answer, predict_guided(role.passes, samples))
    assert answer.video.dtype == torch.float32


def test_a_text_is_asked_for_once(models):
    config = small_run()
    server, work = server_of(config), TeacherWork(config, "stage_1", models[0])
    question, texts = question_of(samples_of(config))
    assert server.predict(work, question, {}) == MissingTexts(frozenset(texts))
    first = server.predict(work, question, texts)
    assert_same_bits(server.predict(work, question, {}), first)
    other, _ = question_of(samples_of(config, seed=1))
    half_known = other._replace(texts=(question.texts[0], other.texts[1]))
    expected = {other.texts[1], other.null_texts[0]}
    assert server.predict(work, half_known, {}) == MissingTexts(frozenset(expected))


def test_the_texts_of_the_last_questions_are_kept_and_no_more(models):
    config = small_run()
    server = server_of(config, kept_prompts=3)
    work = TeacherWork(config, "stage_1", models[0])
    questions = [question_of(samples_of(config, seed)) for seed in (0, 1)]
    for question, texts in questions:
        server.predict(work, question, texts)
    (old, of_old), (new, _) = questions
    assert isinstance(server.predict(work, new, {}), PerStream)
    assert server.predict(work, old, {}) == MissingTexts(frozenset(of_old))


def test_a_question_with_more_texts_than_are_kept_is_answered(models):
    config = small_run()
    question, texts = question_of(samples_of(config, rows=4))
    work = TeacherWork(config, "stage_1", models[0])
    few = server_of(config, kept_prompts=1).predict(work, question, texts)
    assert_same_bits(few, server_of(config).predict(work, question, texts))


def test_a_stage_that_has_another_teacher_is_answered_by_that(models):
    config = small_run()
    server = server_of(config)
    question, texts = question_of(samples_of(config))
    works = [TeacherWork(config, "stage_1", model) for model in models]
    answers = [server.predict(work, question, texts) for work in (*works, works[0])]
    assert not torch.equal(answers[0].video, answers[1].video)
    assert_same_bits(answers[0], answers[2])


def test_a_teacher_of_another_shape_is_refused_by_key(models):
    config = small_run("model.layers=2")
    with pytest.raises(ConfigError, match=r"the teacher of stage_3 .*layers: 1 -> 2"):
        server_of(config).load(TeacherWork(config, "stage_3", models[0]))


def test_texts_have_one_name_each():
    text = PerStream(torch.zeros(2, 3), torch.ones(2, 3))
    others = [
        PerStream(text.audio, text.video),
        PerStream(torch.zeros(3, 2), torch.ones(3, 2)),
        text.map(torch.Tensor.bfloat16),
    ]
    digests = Counter(map(text_digest, [text, text.map(torch.clone), *others]))
    assert sorted(digests.values()) == [1, 1, 1, 2]
