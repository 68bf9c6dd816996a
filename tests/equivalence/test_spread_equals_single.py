"""A stream that is spread over processes computes what one process computes.

Gloo processes on the CPU; five are started once and take the roles of every layout in turn.
"""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import LayoutConfig, ModelConfig
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.attention_view import BidirectionalView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.exchange import DistributedExchange, peers_by_heads
from omniforcing_model.transformer.stream_parallel import UNSPLIT, StreamParallel

pytestmark = pytest.mark.thorough

GRID = (2, 2)
BLOCKS = 4
SIGMAS = (1.0, 0.7)
TOLERANCE = 1e-5
PROCESSES = 5


class Layout(NamedTuple):
    """Processes of each stream, and how the video stream is cut."""

    video: int
    audio: int
    kind: Literal["tensor", "sequence"] = "tensor"


LAYOUTS = (
    Layout(1, 1),
    Layout(2, 1),
    Layout(4, 1),
    Layout(2, 2),
    Layout(2, 1, "sequence"),
    Layout(4, 1, "sequence"),
)
# By the name of a case: the architecture, what its macro-blocks have else, and how it is spread.
CASES: dict[str, tuple[str, dict[str, Any], tuple[Layout, ...]]] = {
    "ltx-2.0": ("ltx-2.0", {}, LAYOUTS),
    "ltx-2.3": ("ltx-2.3", {}, LAYOUTS),
    "echo": (
        "ltx-2.3",
        {
            "first_block": {"video": 1, "audio": 2},
            "pinned_blocks": 2,
            "window_blocks": 1,
            "cross_sigma": "one",
            "prompt_sigma": "one",
        },
        (Layout(2, 2), Layout(4, 1, "sequence")),
    ),
    "own": (
        "ltx-2.0",
        {"window_blocks": 1, "anchor": "stays", "cross_view": "own"},
        (Layout(2, 2), Layout(4, 1, "sequence")),
    ),
}
SPREAD = [(case, layout) for case, (_, _, layouts) in CASES.items() for layout in layouts]
Answer = dict[str, PerStream[Tensor]]


def small_config(case: str) -> ModelConfig:
    architecture, values, _ = CASES[case]
    model = load_preset("tiny").model
    layout = LayoutConfig.model_validate(model.layout.model_dump() | values)
    changes = {"layers": 2, "architecture": architecture, "text_width": model.video.width}
    return model.model_copy(update=changes | {"layout": layout})


def random_file(config: ModelConfig) -> dict[str, Tensor]:
    """Whole tensors, as a file holds them."""
    generator = torch.Generator().manual_seed(0)
    shapes = DualStreamTransformer(config).file_tensors()
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.15
        for name, tensor in shapes.items()
    }


def loaded(
    build: Callable[[], DualStreamTransformer], config: ModelConfig
) -> DualStreamTransformer:
    model = build().eval().requires_grad_(False)
    whole = random_file(config)
    for name, piece in model.file_pieces().items():
        piece.view.copy_(piece.of(whole[name]))
    return model


def answers(model: DualStreamTransformer) -> Answer:
    """A stream through the rolling cache, the last block's video given; one bidirectional pass."""
    config = model.config
    generator = torch.Generator().manual_seed(1)
    widths = (config.video.width, config.audio.width)
    text = model.read_text(
        PerStream(*(torch.randn(1, 6, width, generator=generator) for width in widths))
        if config.modulated_text
        else PerStream(*(torch.randn(1, 6, config.text_width, generator=generator),) * 2)
    )
    latents = PerStream(
        torch.randn(1, 4, config.video.latent_channels, *GRID, generator=generator),
        torch.randn(1, 26, config.audio.latent_channels, generator=generator),
    )
    held = model.halves.map(lambda half, x: x, latents)
    view = BidirectionalView(config, PerStream(4, 26), GRID)
    rollout = Rollout(model, text, GRID, SIGMAS, seeded_noise(3))
    blocks = [rollout.next_block() for _ in range(BLOCKS)]
    given = torch.randn(1, 3, config.video.latent_channels, *GRID, generator=generator)
    blocks.append(rollout.next_block(given=PerStream(given, None)))
    rollout.commit()
    return {
        "pass": model(held, torch.tensor([[0.6]]), text, view),
        **{f"block {index}": block for index, block in enumerate(blocks)},
    }


def role_of(rank: int, layout: Layout) -> tuple[str, PerStream[StreamParallel]]:
    """Which half a rank holds, and its place in it. Every rank makes every group."""
    groups = [
        dist.new_group(list(range(layout.video))),
        dist.new_group(list(range(layout.video, layout.video + layout.audio))),
    ]
    video = StreamParallel(layout.kind, layout.video, rank, groups[0])
    audio = StreamParallel("tensor", layout.audio, rank - layout.video, groups[1])
    if rank < layout.video:
        return "video", UNSPLIT._replace(video=video)
    return ("audio" if rank < layout.video + layout.audio else ""), UNSPLIT._replace(audio=audio)


def play_every_layout(rank: int, folder: str) -> None:
    """One process: its part in every layout; the answers of each go to a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    outputs: dict[tuple[str, Layout], Answer] = {}
    with torch.no_grad():
        for case, layout in SPREAD:
            half, parallel = role_of(rank, layout)
            if half:
                outputs[case, layout] = play(small_config(case), layout, half, parallel)
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(outputs))
    dist.barrier()
    dist.destroy_process_group()


def play(
    config: ModelConfig, layout: Layout, half: str, parallel: PerStream[StreamParallel]
) -> Answer:
    own = parallel.video if half == "video" else parallel.audio
    others = layout.audio if half == "video" else layout.video
    first = layout.video if half == "video" else 0
    exchange = DistributedExchange(None, peers_by_heads(own, others, first, config.audio.heads))
    build = partial(DualStreamTransformer, config, exchange, [half], parallel)
    return answers(loaded(build, config))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, Layout], Answer]]:
    folder = tmp_path_factory.mktemp("spread")
    mp.spawn(play_every_layout, args=(str(folder),), nprocs=PROCESSES)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def single() -> dict[str, Answer]:
    with torch.no_grad():
        configs = {name: small_config(name) for name in CASES}
        return {
            name: answers(loaded(partial(DualStreamTransformer, config), config))
            for name, config in configs.items()
        }


@pytest.mark.parametrize(("case", "layout"), SPREAD, ids=str)
def test_every_process_of_a_layout_answers_as_one_process_does(
    played: list[dict[tuple[str, Layout], Answer]],
    single: dict[str, Answer],
    case: str,
    layout: Layout,
) -> None:
    expected = single[case]
    for rank in range(layout.video + layout.audio):
        half = "video" if rank < layout.video else "audio"
        for what, answer in played[rank][case, layout].items():
            mine, reference = getattr(answer, half), getattr(expected[what], half)
            assert reference.std() > 0.1, "a silent reference proves nothing"
            assert (mine - reference).abs().max() <= TOLERANCE, (rank, what)


def test_a_tensor_parallel_share_holds_its_share_of_the_projections_only() -> None:
    config = small_config("ltx-2.0")
    quarter = UNSPLIT._replace(video=StreamParallel("tensor", 4, 1, None))
    whole = DualStreamTransformer(config).file_tensors()
    for name, part in DualStreamTransformer(config, parallel=quarter).file_tensors().items():
        cut = any(word in name for word in ("to_q", "to_k", "to_v", "norm_q", "norm_k", "up."))
        cut |= any(word in name for word in ("to_out.weight", "down.weight"))
        share = 4 if cut and name.startswith("video.") else 1
        assert part.numel() * share == whole[name].numel(), name
