"""Where the models run: one choice for all entry points; and their memory, given back."""

import gc

import torch

from common.errors import InputError


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device asked for, or CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: for a name that is no device, or a device that this machine does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not name:
        name = next(kind for kind, found in there.items() if found)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type):
        raise InputError(
            f"device {str(name)!r} cannot be used; this machine has {', '.join(kind for kind, found in there.items() if found)}"
        )
    if device.type == "cuda":
        # cuDNN's attention builds a plan for every new shape, and dialogues have many: most of what reading them would take
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def memory_used() -> dict[str, float] | None:
    """Gigabytes of GPU memory: the most that PyTorch has held, recorded steps included, and what the whole device has in use now; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return {
        "held": round(torch.cuda.max_memory_reserved() / 1e9, 2),
        "device": round((total - free) / 1e9, 2),
    }


def release_memory() -> None:
    """Give back what models no longer in use hold: a trainer and its recorded steps refer to each other, and wait for the collector."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
