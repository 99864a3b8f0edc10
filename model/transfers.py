"""Tensors between the CPU and a GPU, for which neither waits longer than it must."""

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, without waiting for what a GPU has still to do."""
    return pinned(values, device).to(device, non_blocking=device.type == "cuda")


def pinned(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor from which a GPU can copy at once; from memory that is not pinned CUDA copies only when all work before is done."""
    return values.pin_memory() if device.type == "cuda" and not values.is_cuda else values


class Arriving:
    """A tensor on its way to the CPU: meanwhile the device can be given more to do, and the CPU something else.

    Args:
        values: on any device; what is written into it later may or may not arrive.
    """

    def __init__(self, values: torch.Tensor):
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:  # into pinned memory, behind which an event is recorded
            self._values = values.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> torch.Tensor:
        """The tensor on the CPU; waits for the work that it comes from, and no later one."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values.cpu()
