"""DeepSpeed beside everything else in a process, and what it is told of precision."""

import pytest
import torch
from torch import distributed as dist

from actors.training.deepspeed_engines import deepspeed, quiet_deepspeed, trained_engine
from actors.training.start_weights import FreshWeights, made_network
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape, draw_noise, whole_clip
from tests.worlds.training import grid_of, latent_counts, small_run

BIAS = "video.proj_out.bias"
FIRST, SMALL_ONES = 256, 24


def test_a_process_that_trains_may_compile():
    deepspeed()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    double = torch.compile(lambda x: 2 * x, backend=backend, fullgraph=True)
    assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(graphs) == 1


def engine_of(config):
    """An engine of a fresh network of which one bias learns, and its passes."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    optimiser = config.stages.trained_stage("teacher").optimiser
    network = made_network(FreshWeights(config.model, 0), optimiser, "cpu")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name == BIAS)
    with quiet_deepspeed():
        engine = trained_engine(TrainedTransformer(network), optimiser, 1e-3)
    return engine, SharedPasses(network, engine)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_small_gradients_in_bfloat16_add_up_in_float32(zero_stage):
    """In bfloat16 256 + 1 is 256."""
    precision = "stages.teacher.optimiser.precision=bfloat16"
    config = small_run(precision, zero_stage=zero_stage)
    engine, passes = engine_of(config)
    shape = ClipShape(1, latent_counts(config), grid_of(config))
    latents = draw_noise(passes, shape, seeded_noise([0])).map(torch.Tensor.bfloat16)
    view, text = whole_clip(passes, latents), torch.zeros(1, 6, config.model.text_width)
    with quiet_deepspeed():
        for scale in (FIRST, *[1] * SMALL_ONES):
            read = passes.read_text(PerStream(text, text))
            velocity = passes(latents, torch.ones(1, 1), read, view)
            engine.backward(scale * velocity.video.float().mean(), scale_wrt_gas=False)
        engine.step()
    channels = config.model.video.latent_channels
    norm = float(engine.get_global_grad_norm())
    engine.destroy()
    assert norm == pytest.approx((FIRST + SMALL_ONES) / channels**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("precision", "travelling"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_gradients_travel_as_passes_make_them_and_are_summed_in_float32(
    zero_stage, precision, travelling
):
    override = f"stages.teacher.optimiser.precision={precision}"
    engine, _ = engine_of(small_run(override, zero_stage=zero_stage))
    assert engine.communication_data_type == travelling
    assert engine.get_data_types() == (travelling, torch.float32)
    engine.destroy()
