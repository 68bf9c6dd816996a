"""Results of benchmarks, small and made up, for the pages that show them."""

from infra.presets import load_preset
from pipelines.benchmarks.machine.record import record_of
from pipelines.benchmarks.machine.roofline import BlockWork, Rates, roofline
from pipelines.benchmarks.stream.graph_bench import GraphBench
from pipelines.benchmarks.stream.stream_bench import StreamBench
from pipelines.benchmarks.suite.record import StepRecord


def stream_bench(dtype: str = "bfloat16", block_s: float = 0.25) -> StreamBench:
    """A stream whose blocks take `block_s` seconds, of which 0.2 are the machine's limit."""
    work = BlockWork(products=150, attention=50, bytes=10)
    line = roofline(work, Rates(products=1000, attention=1000, bytes=100), block_s)
    first = {"read_text": 0.01, "block_0": block_s, "other": 0.001, "sum": block_s + 0.011}
    return StreamBench(
        config="paper",
        device="cuda",
        dtype=dtype,
        threads=16,
        seconds=3,
        blocks=4,
        steady_blocks=2,
        codecs="ltx2, random",
        cold_block_s=(1.0, 0.5, block_s),
        block_s=(block_s,) * 4,
        block_s_median=block_s,
        block_s_p99=block_s,
        p99_over_p50=1.0,
        decode_s=(0.0625,) * 4,
        decode_s_median=0.0625,
        decode_s_p99=0.0625,
        decode_video_s_median=0.05,
        decode_audio_s_median=0.0125,
        frames=97,
        frames_per_second=24 / block_s,
        frames_per_second_decoded=24 / (block_s + 0.0625),
        frames_per_second_limit=24 / line.limit_s,
        first_chunk_cold_s=first | {"block_0": 1.0, "sum": 1.011},
        first_chunk_warm_s=first,
        roofline=line,
        cache_mb=(7240.875,) * 4,
        held_mb=(47965.5,) * 4,
        peak_memory_mb=52171.5,
    )


def graph_bench(largest_difference: float = 0.0) -> GraphBench:
    """A stream that is twice as fast as graphs."""
    return GraphBench(
        config="paper",
        device="cuda",
        dtype="bfloat16",
        layers=12,
        way="captured",
        blocks=3,
        graph_block_s=(2.0, 0.1, 0.1),
        plain_block_s=(0.3, 0.2, 0.2),
        graph_block_s_median=0.1,
        plain_block_s_median=0.2,
        faster=2.0,
        largest_difference=largest_difference,
        is_equal=largest_difference == 0,
    )


def step_record(name: str, result: StreamBench | GraphBench) -> StepRecord:
    """A step that is done with that result."""
    return StepRecord(
        name=name,
        title=f"Step {name}",
        command=f"omniforcing bench {name}",
        outcome="done",
        reason="",
        limit_s=60.0,
        seconds=12.5,
        record=record_of(load_preset("paper"), {"what": name}, result.model_dump(mode="json")),
    )
