"""The most bytes that tensors hold at once while a piece of the model runs without data.

PyTorch's fake tensors have shapes and no memory: the code that trains runs through, each operator
says what it would allocate, and a whole step of 19 billion parameters is counted on a laptop.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from omniforcing_model.kernels.choice import KernelChoice, MachineKernels, using_kernels

G = TypeVar("G")

# A GPU's attention keeps what PyTorch's own on a CPU keeps.
_PLAIN = KernelChoice("sdpa", "plain", "plain")


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that operators have made within it and that are still there.

    `live`: now. `peak`: the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self.live: int = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator, and count what it returns."""
        del types
        given = (args, kwargs or {})
        for value in tree_iter(given):
            if isinstance(value, Tensor):
                self._see(value, is_made=False)
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value, is_made=True)
        return result

    def _see(self, tensor: Tensor, is_made: bool) -> None:
        """Count what was made here; what it was given may be seen again through a view."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if is_made else 0
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(run: Callable[[G], None], prepare: Callable[[], G]) -> int:
    """Peak of what `run` allocates, given what `prepare` made, which is not counted.

    Both run without data.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, using_kernels(MachineKernels(_PLAIN, _PLAIN)):
        given = prepare()
        live = LiveTensors()
        with live:
            run(given)
    return live.peak
