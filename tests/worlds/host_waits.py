"""Where a GPU's host would wait for what is queued, found on the meta device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero}
COPIES = {aten._to_copy, aten.copy_}


class NoHostWaits(TorchDispatchMode):
    """Raises at a read of the device, and at a copy to or from it that waits."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function.overloadpacket not in READS, f"the host reads the device: {function}"
        result = function(*args, **kwargs)
        if function.overloadpacket in COPIES:
            source = args[1] if function.overloadpacket is aten.copy_ else args[0]
            waits = not (kwargs.get("non_blocking") or (args[2:] and args[2] is True))
            assert result.device == source.device or not waits, f"a copy waits: {function}"
        return result
