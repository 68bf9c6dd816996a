"""What one training worker holds of the roles, and what DeepSpeed adds to it, in bytes.

As actors/training/deepspeed_engines.py sets DeepSpeed 0.19.8 up; ZeRO's stages differ in what of a
role is cut over the ranks.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from actors.training.deepspeed_engines import (
    BUCKETS_PER_LAYER,
    CUT_GRADIENTS,
    DTYPES,
    SPREAD_WEIGHTS,
)
from infra.stages import OptimiserConfig
from pipelines.planning.model_size import ModelSize

FLOAT = 4
MOMENTS = 2
# AdamW's own, in float32: the root of the second moment, and that divided.
ADAM_TEMPORARIES = 2

Parts = Mapping[str, float]


class RankMemory(NamedTuple):
    """Sizes of what a rank holds.

    `size`: of the model that every role is. `ranks`: workers.
    """

    size: ModelSize
    optimiser: OptimiserConfig
    ranks: int

    @property
    def is_spread(self) -> bool:
        """Whether weights are cut too."""
        return self.optimiser.zero_stage == SPREAD_WEIGHTS

    @property
    def item(self) -> int:
        """Bytes of a weight."""
        return DTYPES[self.optimiser.precision].itemsize

    @property
    def layer(self) -> int:
        """Bytes of the weights of a layer of both streams."""
        return self.item * sum(self.size.layer)

    @property
    def bucket(self) -> float:
        """Bytes of the buffer in which gradients are summed."""
        return self.layer / BUCKETS_PER_LAYER

    def share(self, elements: int) -> float:
        """A rank's part of what is cut."""
        return elements / self.ranks

    def learning(self, with_sinks: bool) -> Parts:
        """What stays of a role that learns."""
        own = self.share(self.size.trained(with_sinks))
        gradients = own if self.is_spread else 0.0  # else until the update
        if self._sums_in_float32:
            gradients = self.size.trained(with_sinks)
        return {
            "weights": self._weights(),
            "gradients": FLOAT * gradients,
            "masters": FLOAT * own,  # also where weights are float32: DeepSpeed copies them
            "moments": MOMENTS * FLOAT * own,
            "buffers": self.bucket if self.is_spread else 0.0,
        }

    def frozen(self) -> Parts:
        """What stays of a role that does not learn."""
        return {"frozen": self._weights()}

    def whole_copy(self) -> Parts:
        """What rollouts read where spread weights are far."""
        return {"frozen": float(self.item * self.size.total)}

    def average(self) -> Parts:
        """What the average of the generator's weights takes."""
        return {"average": FLOAT * self.share(self.size.total)}

    def while_made(self, learns: bool) -> Parts:
        """What is there of a role while it is made: a layer, or the ends, before they are cut; or
        the weights twice, when those that learn are put in one piece."""
        whole = float(self.item * self.size.total)
        if not self.is_spread:
            return {"weights": 2 * whole if learns else whole}
        uncut = self.item * max(sum(self.size.layer), sum(self.size.ends))
        return {"weights": whole / self.ranks + uncut}

    def in_a_pass(self) -> Parts:
        """What a pass without gradients adds: the layer that runs."""
        return {"gathered": float(self.layer) if self._gathers else 0.0}

    def in_a_backward_pass(self, activations: float, is_only: bool) -> Parts:
        """What a backward pass adds: the gathered layer, its gradients, which leave together, and
        where they are summed over ranks.

        Args:
            activations: bytes of its pass.
            is_only: whether the update has no other backward pass.
        """
        if self.is_spread:
            spread = {"reduction": self.layer + self.bucket, "activations": activations}
            return {**self.in_a_pass(), **spread}
        whole, largest = (float(self.item * n) for n in (self.size.total, self.size.largest))
        if self.optimiser.zero_stage >= CUT_GRADIENTS:
            sums = 1 if is_only else 2  # of the passes before this one, and its own
            return {
                "gradients": sums * FLOAT * self.share(self.size.total),
                "reduction": max(self.bucket, largest) + largest,
                "activations": activations,
            }
        # Whole ones stay until the update: they come as activations go, or before all of them.
        if not is_only:
            return {"gradients": whole, "reduction": largest, "activations": activations}
        return max(
            {"activations": activations},
            {"gradients": whole, "reduction": largest},
            key=lambda parts: sum(parts.values()),
        )

    def in_an_update(self, with_sinks: bool) -> Parts:
        """What AdamW adds: the gradients in one piece, and what it computes beside them."""
        own = self.share(self.size.trained(with_sinks))
        if self.is_spread:  # a layer's worth of elements at a time, of which gradients are copied
            return {"update": FLOAT * min(own, sum(self.size.layer)) * (1 + ADAM_TEMPORARIES)}
        if self._sums_in_float32:  # those of the last pass are still there
            left = {"reduction": float(self.item * self.size.total)}
            return {**left, "update": FLOAT * own * ADAM_TEMPORARIES}
        return {"gradients": FLOAT * own, "update": FLOAT * own * ADAM_TEMPORARIES}

    def in_a_save(self) -> Parts:
        """The part that the rank holds of one tensor, as it is written."""
        return {"saved": FLOAT * self.share(self.size.largest)}

    def in_a_publish(self) -> Parts:
        """One whole tensor of the average, and as it is written."""
        return {"published": 2.0 * FLOAT * self.size.largest}

    @property
    def _sums_in_float32(self) -> bool:
        """Whether whole gradients stay in float32, beside those that passes leave: DeepSpeed has an
        optimiser of its own for ZeRO 1 in bfloat16."""
        return self.optimiser.zero_stage < CUT_GRADIENTS and self.item < FLOAT

    @property
    def _gathers(self) -> bool:
        return self.is_spread and self.ranks > 1

    def _weights(self) -> float:
        whole = float(self.item * self.size.total)
        if not self.is_spread:
            return whole
        vectors = self.item * self.size.vectors if self._gathers else 0
        return whole / self.ranks + vectors


def summed(parts: Iterable[Parts]) -> dict[str, float]:
    """Bytes by what they are, over several."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
