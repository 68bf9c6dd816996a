import pytest
import torch

from omniforcing_model.errors import ShapeError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import BidirectionalView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.perturbation import Perturbation
from omniforcing_model.transformer.stream_parallel import WHOLE, StreamParallel
from tests.worlds.small_models import random_small_model, small_model_config

GRID = (1, 2)
SIGMA = torch.tensor([[0.5]])


def latents(video=(1, 2, 3, *GRID), audio=(1, 4, 5)):
    generator = torch.Generator().manual_seed(3)
    return PerStream(*(torch.randn(shape, generator=generator) for shape in (video, audio)))


def velocity(model, clip, perturbation=None, sigma=SIGMA):
    width = model.config.text_width
    text = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(4))
    if model.config.modulated_text:
        features = PerStream(text, text[..., : model.config.audio.width])
    else:
        features = PerStream(text, text)
    view = BidirectionalView(
        model.config, PerStream(clip.video.shape[1], clip.audio.shape[1]), GRID
    )
    more = () if perturbation is None else (perturbation,)
    with torch.no_grad():
        return model(clip, sigma, model.read_text(features), view, *more)


@pytest.fixture(scope="module", params=["ltx-2.0", "ltx-2.3"])
def model(request):
    return random_small_model(small_model_config(request.param))


def test_velocities_have_the_shapes_of_the_latents(model):
    clip = latents()
    out = velocity(model, clip)
    assert out.map(lambda x: x.shape) == clip.map(lambda x: x.shape)
    assert out.video.std() > 0.1
    assert out.audio.std() > 0.1


def test_a_fresh_model_predicts_no_velocity():
    out = velocity(DualStreamTransformer(small_model_config()).eval(), latents())
    assert not out.video.any()
    assert not out.audio.any()


def test_latents_stay_in_their_places(model):
    alone = Perturbation(frozenset({0}), "values", isolate=True)
    clip = latents()
    video = clip.video.clone()
    video[0, 1, :, 0, 1] += 1
    moved = velocity(model, PerStream(video, clip.audio), alone).video
    change = (moved - velocity(model, clip, alone).video).abs().amax(2)[0, :, 0]
    assert change[1, 1] > 0.01
    change[1, 1] = 0
    assert change.max() < 1e-5


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"video": (1, 2, 4, 1, 2)},
            r"video latents with 5 axes and 3 channels .* got \(1, 2, 4",
        ),
        (
            {"video": (1, 2, 3, 2)},
            r"video latents with 5 axes .* got \(1, 2, 3, 2\)",
        ),
        (
            {"audio": (1, 4, 3)},
            r"audio latents with 3 axes and 5 channels .* got \(1, 4, 3\)",
        ),
        ({"audio": (1, 4, 5, 1)}, r"audio latents with 3 axes"),
    ],
)
def test_other_shapes_are_refused(model, broken, message):
    clip = latents(**broken)
    view = BidirectionalView(model.config, PerStream(2, 4), GRID)
    with pytest.raises(ShapeError, match=message):
        model(clip, SIGMA, None, view)


def test_isolated_streams_do_not_depend_on_each_other(model):
    clip, other = latents(), latents()
    other = PerStream(other.video, other.audio + 1)
    apart = Perturbation(isolate=True)
    assert torch.equal(velocity(model, clip, apart).video, velocity(model, other, apart).video)
    together = velocity(model, clip).video, velocity(model, other).video
    assert not torch.allclose(*together)


@pytest.mark.parametrize("kind", ["drop", "values"])
def test_a_weakened_layer_changes_the_velocity_of_both_streams(model, kind):
    clip = latents()
    plain = velocity(model, clip)
    weak = velocity(model, clip, Perturbation(frozenset({0}), kind))
    assert not torch.allclose(plain.video, weak.video)
    assert not torch.allclose(plain.audio, weak.audio)
    other_layer = velocity(model, clip, Perturbation(frozenset({1}), kind))
    assert torch.equal(other_layer.video, plain.video)


def test_half_a_model_needs_an_exchange():
    model = random_small_model(small_model_config(), halves=("audio",))
    assert model.halves.video is None
    clip = PerStream(None, latents().audio)
    text = model.read_text(PerStream(None, torch.zeros(1, 1, 6)))
    view = BidirectionalView(model.config, PerStream(2, 4), GRID)
    with pytest.raises(ShapeError, match="expected both halves or an exchange"):
        model(clip, SIGMA, text, view)


def test_the_audio_stream_is_not_cut_by_tokens():
    parallel = PerStream(WHOLE, StreamParallel("sequence", 2))
    with pytest.raises(ShapeError, match="expected the audio stream whole or tensor parallel"):
        DualStreamTransformer(small_model_config(), parallel=parallel)


def test_the_prompt_may_have_a_sigma_of_its_own():
    model = random_small_model(small_model_config("ltx-2.3"))
    own, other = model.at_noise_level(SIGMA), model.at_noise_level(SIGMA, torch.tensor([[0.9]]))
    assert torch.equal(own.modulation.video.within, other.modulation.video.within)
    expected = model.at_noise_level(torch.tensor([[0.9]])).modulation.video.prompt
    assert torch.equal(other.modulation.video.prompt, expected)
    assert not torch.equal(own.modulation.video.prompt, expected)


def with_rules(model, **rules):
    """The same weights under other rules of the layout."""
    config = model.config.model_copy(
        update={"layout": model.config.layout.model_copy(update=rules)}
    )
    other = DualStreamTransformer(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def levels(model, *sigmas):
    with torch.no_grad():
        return [model.at_noise_level(torch.tensor([[sigma]])).modulation.video for sigma in sigmas]


def test_across_the_streams_sigma_may_be_one_whatever_it_is(model):
    half, one = levels(with_rules(model, cross_sigma="one"), 0.5, 1.0)
    own = levels(model, 0.5)[0]
    for rows in ("across", "gate"):
        assert torch.equal(getattr(half, rows), getattr(one, rows))
        assert not torch.equal(getattr(half, rows), getattr(own, rows))
    assert torch.equal(half.within, own.within)
    assert torch.equal(half.embedded, own.embedded)


@pytest.mark.parametrize(
    ("architecture", "rule"),
    [("ltx-2.0", "cross_sigma"), ("ltx-2.3", "cross_sigma"), ("ltx-2.3", "prompt_sigma")],
)
def test_a_sigma_of_one_changes_nothing_at_sigma_one_and_something_elsewhere(architecture, rule):
    model = random_small_model(small_model_config(architecture))
    ruled, clip = with_rules(model, **{rule: "one"}), latents()
    for sigma, same in ((1.0, True), (0.5, False)):
        pair = [velocity(m, clip, sigma=torch.tensor([[sigma]])) for m in (model, ruled)]
        for ours, theirs in zip(*pair, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6) is same


def test_a_prompt_at_sigma_one_has_the_keys_of_that_sigma_at_every_other():
    """Said by the sigma of the prompt alone, which a caller may state for a pass."""
    model = random_small_model(small_model_config("ltx-2.3"))
    with torch.no_grad():
        stated = model.at_noise_level(SIGMA, torch.ones(1, 1))
    meant = velocity(model, latents(), sigma=stated)
    for ours, theirs in zip(
        velocity(with_rules(model, prompt_sigma="one"), latents()), meant, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_each_stream_may_have_a_sigma_of_its_own(model):
    levels = PerStream(torch.tensor([[0.2]]), torch.tensor([[0.9]]))
    apart = Perturbation(isolate=True)
    both = velocity(model, latents(), apart, sigma=levels)
    for stream, sigma in enumerate(levels):
        alone = velocity(model, latents(), apart, sigma=sigma)
        assert torch.equal(both[stream], alone[stream])
        assert not torch.allclose(both[1 - stream], alone[1 - stream])
