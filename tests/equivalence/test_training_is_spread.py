"""No rank holds a whole transformer, of any role, at any moment of a stage.

Counted at every operation, from the models' construction to the published one. The clips are
so small that what is alive is weights and what belongs to them.
"""

from itertools import product

import pytest

from tests.worlds.live_bytes import LiveBytes
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_model, write_trajectories

STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
LAYERS = 8
# With every change; all of them in the long suite.
QUICK = (("stage_3", 2),)
WIDE = (
    f"model.layers={LAYERS}",
    "model.layout.window_blocks=1",
    "model.video={latent_channels: 4, heads: 8, head_dim: 32}",
    "model.audio={latent_channels: 3, heads: 8, head_dim: 16}",
)
FLOAT = 4
# A weight, its gradient, the one that AdamW updates, and two moments.
OF_A_ROLE_THAT_LEARNS = 5
# The average, of the generator alone.
AVERAGE = 1
GATHERED_LAYERS = 4


def wide_run():
    return small_run(*WIDE, steps=2, batch=4, micro_batch=1, zero_stage=3)


def peak_of_a_stage(folder, stage, data):
    """Most bytes alive at once in this rank, and how much of the weights is really cut."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    starts = dict.fromkeys(("generator", "critic", "teacher"), str(folder / "model"))
    if stage == "teacher":
        starts = {}
    with LiveBytes() as live:
        worker = DistillationWorker(
            StageWork(stage, wide_run(), str(folder / "run"), data, starts, ())
        )
        networks = [*worker._engines.values(), *worker._frozen.values()]
        weights = [p for role in networks for p in role.network.parameters()]
        cut = sum(p.ds_numel for p in weights if not p.ds_persist)
        elements = sum(p.ds_numel for p in weights)
        worker.run()
        worker.close()
    return {"peak": live.peak, "cut": cut / elements}


def sizes(config):
    """Elements of a model, of a layer of both streams, and of what is in no layer."""
    from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

    model = DualStreamTransformer.without_memory(config.model)
    elements = {name: p.numel() for name, p in model.named_parameters()}
    in_layers = sum(n for name, n in elements.items() if ".layers." in name)
    total = sum(elements.values())
    return total, in_layers // LAYERS, total - in_layers


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("stage", "ranks"),
    [
        pytest.param(*way, marks=pytest.mark.thorough if way in QUICK else pytest.mark.slow)
        for way in product(STAGES, (2, 4))
    ],
)
def test_a_rank_holds_its_share_of_all_roles_four_layers_and_the_ends(tmp_path, stage, ranks):
    config = wide_run()
    data = write_clips(config, tmp_path / "clips")
    if stage == "stage_2":
        data = write_trajectories(config, tmp_path / "trajectories")
    write_model(config, tmp_path / "model")
    found = run_in_ranks(peak_of_a_stage, ranks, tmp_path, {"stage": stage, "data": data}, 200)
    model, layer, ends = sizes(config)
    learning = 2 if stage in ("stage_1", "stage_3") else 1
    frozen = learning - 1
    roles = learning * OF_A_ROLE_THAT_LEARNS + AVERAGE + frozen
    most = FLOAT * (roles * model / ranks + GATHERED_LAYERS * layer + ends)
    for rank in found:
        assert rank["cut"] >= 0.9
        assert rank["peak"] <= most
