"""DeepSpeed, as the roles use it: one engine each, sized by the layers that it gathers.

Weights that are spread (ZeRO-3) are made spread: a module's memory is there for the moment in which
its parameters are cut, and each rank writes its own cut of them.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from infra.stages import OptimiserConfig
from omniforcing_model.config import ModelConfig
from omniforcing_model.distillation.trained_transformer import TrainedTransformer
from omniforcing_model.transformer.exchange import LayerOfBoth
from omniforcing_model.transformer.stream_layer import StreamLayer, StreamName
from omniforcing_model.transformer.stream_parallel import WHOLE

CUT_GRADIENTS, SPREAD_WEIGHTS = 2, 3  # stages of ZeRO
BUCKETS_PER_LAYER = 8  # a reduction's buffers are beside the gradients of a layer
PERSISTENT_ROWS = 16  # a table of modulation has nine, the sinks are sixteen
NAMES: tuple[StreamName, StreamName] = ("video", "audio")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Held(NamedTuple):
    """How a model is held that nobody trains: as `OptimiserConfig` says it of one that learns."""

    precision: str
    zero_stage: int


def trained_engine(
    module: TrainedTransformer, optimiser: OptimiserConfig, learning_rate: float
) -> Any:
    """An engine that updates those parameters of `module` that require gradients, with AdamW."""
    adam = torch.optim.AdamW(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=learning_rate,
        betas=optimiser.betas,
        weight_decay=optimiser.weight_decay,
    )
    settings = engine_settings(module.network.config, optimiser) | {
        "gradient_clipping": optimiser.clip_norm,
        # A loss has any number of terms: the update is made when `step` is called.
        "managed_gradient_accumulation": False,
    }
    engine, *_ = deepspeed().initialize(
        model=module, optimizer=adam, config=settings, dist_init_required=False
    )
    return engine


def masters_of(optimiser: Any) -> list[Tensor]:
    """The float32 weights that an engine's optimiser updates: this rank's, flat, by its group.

    DeepSpeed has an optimiser of its own for each ZeRO stage, and for stage 1 in bfloat16.
    """
    for name in (
        "fp32_partitioned_groups_flat",
        "single_partition_of_fp32_groups",
        "fp32_groups_flat_partition",
    ):
        if hasattr(optimiser, name):
            masters: list[Tensor] = getattr(optimiser, name)
            return masters
    raise TypeError(f"expected an optimiser of ZeRO, got {type(optimiser).__name__}")


def frozen_engine(module: TrainedTransformer, optimiser: OptimiserConfig | Held) -> Any:
    """An engine that gathers the spread weights of `module` and updates nothing."""
    settings = engine_settings(module.network.config, optimiser)
    engine, *_ = deepspeed().initialize(model=module, config=settings, dist_init_required=False)
    return engine


def spread(
    module: nn.Module, settings: dict[str, Any], dtype: torch.dtype, group: Any = None
) -> None:
    """Cut the parameters of `module`, which have memory, over the ranks; each keeps its own cut.

    settings: of `engine_settings`. group: the ranks; all without one.
    """
    with quiet_deepspeed():
        deepspeed().zero.Init(
            module=module, config_dict_or_path=settings, dtype=dtype, data_parallel_group=group
        )


def engine_settings(config: ModelConfig, optimiser: OptimiserConfig | Held) -> dict[str, Any]:
    """Buffers and thresholds by the size of a layer of both streams, which is gathered whole."""
    layer = layer_elements(config)
    widest = max(config.video.width, config.audio.width)
    is_half = optimiser.precision == "bfloat16"
    return {
        "train_batch_size": dist.get_world_size(),
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": None,
        "bf16": {"enabled": is_half},
        # Gradients travel in the precision that a pass makes them in, and are added up over passes
        # in float32: of many small ones a sum in bfloat16 would lose the last.
        "communication_data_type": "bf16" if is_half else "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": optimiser.zero_stage,
            # What AdamW makes beside a group of weights is as large as the group.
            "sub_group_size": layer,
            "reduce_bucket_size": layer // BUCKETS_PER_LAYER,
            # Where it is an option, a bucket is summed where it lies, not copied out and back.
            "reduce_scatter": optimiser.zero_stage == SPREAD_WEIGHTS,
            "allgather_bucket_size": layer,
            # It prefetches by the last pass's sequence, and keeps what another pass does not use.
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_live_parameters": 2 * layer,
            "stage3_max_reuse_distance": 0,
            # Vectors stay whole: norms, biases, tables. They are a thousandth of the weights.
            "stage3_param_persistence_threshold": PERSISTENT_ROWS * widest,
            # It would replace PyTorch's layer in the whole process; `gathered_linear` is ours.
            "memory_efficient_linear": False,
            "leaf_module": {"classes": [LayerOfBoth.__name__, StreamLayer.__name__]},
        },
    }


def layer_elements(config: ModelConfig) -> int:
    """Parameters of one layer of both streams."""
    with torch.device("meta"):
        layers = [StreamLayer(config, name, 0, WHOLE) for name in NAMES]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def deepspeed() -> Any:
    """The library, with the accelerator set before it looks for one itself.

    Without a GPU it would compile an operation of shared-memory collectives for a minute, which
    does not pay on a CPU.
    """
    without_gpu = not torch.cuda.is_available()
    if without_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed refuses to start without one
    import deepspeed  # noqa: PLC0415  # reads the variables above when it is imported

    deepspeed.utils.logger.setLevel("ERROR")
    if without_gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """Leave out warnings that DeepSpeed causes and a user cannot act on, and what it prints."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="deepspeed|torch")
        yield
