"""Copies of small tables and noise to the device that wait for nothing queued there."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the host on `device`.

    A copy from ordinary memory first waits for everything that a GPU has queued; from pinned memory
    it takes its turn in the queue.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
