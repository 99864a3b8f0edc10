"""Frozen weights under adapters in 4 bits: QLoRA (Dettmers et al., NeurIPS 2023), through ``bitsandbytes``.

Only training holds them so. What is saved are the adapters, and for generation they are added to the base's own weights.
"""

import torch
from torch import nn


def hold_in_4bit(module: nn.Module, device: torch.device, compute: torch.dtype) -> int:
    """Keep the frozen linear layers that have adapters as NF4 numbers, in place; returns how many there were.

    Args:
        device: where they are quantised, and stay.
        compute: type in which they are multiplied.

    Raises:
        ModuleNotFoundError: without ``bitsandbytes``.
    """
    import bitsandbytes
    from peft.tuners.lora import LoraLayer

    class Frozen(
        bitsandbytes.nn.Linear4bit
    ):  # a base's weight: never saved, nor what its quantisation keeps beside it
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)

    held = 0
    for layer in module.modules():
        base = layer.get_base_layer() if isinstance(layer, LoraLayer) else None
        if not isinstance(base, nn.Linear):
            continue
        frozen = Frozen(base.in_features, base.out_features, base.bias is not None, compute, quant_type="nf4")
        frozen.weight = bitsandbytes.nn.Params4bit(base.weight.data, requires_grad=False, quant_type="nf4")
        frozen.bias = base.bias
        layer.base_layer = frozen.to(device)
        held += 1
    return held
