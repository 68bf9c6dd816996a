"""Time per block of the model's rollout, against recomputing the clip so far."""

from typing import Annotated, Literal

import typer

from infra.command_line import Invocation, command
from omniforcing_model.macro_block import BlockLayout
from pipelines.bench_model import bench_model


def register(app: typer.Typer) -> None:
    """Add `omniforcing bench` to `app`."""

    @command(app, "bench")
    def run_bench(
        call: Invocation,
        what: Annotated[Literal["model"], typer.Argument(help="What to time.")] = "model",
        seconds: Annotated[int, typer.Option(min=2, help="Length of the stream.")] = 12,
    ) -> None:
        """Time every block of a stream on random weights; nothing is decoded."""
        blocks = BlockLayout(call.config.model.layout).blocks_for_seconds(seconds)
        with call.progress.stage(f"bench {what}", blocks) as stage:
            made = bench_model(call.config, seconds, stage.advance)
        call.result(
            made.model_dump(mode="json"),
            f"block {made.block_s_median * 1e3:.1f} ms,"
            f" recomputed {made.recompute_block_s_median * 1e3:.1f} ms"
            f" ({made.speed_up:.1f} times as long), cache {made.cache_mb:.2f} MiB,"
            f" {made.threads} threads",
        )
