"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) on frozen bases, through `peft`.

A model with adapters trains and saves the adapters and our own layers; the bases' weights stay as they are and are not
saved. Before replies are written, `merge_adapters` adds the adapters to the weights, so that they cost nothing there.
"""

import functools
import warnings
from typing import Any

import torch
from torch import nn

NAME = "default"  # what peft calls an adapter that has no name
INNER = ".base_layer"  # what it puts into the name of a weight that has an adapter


def add_adapters(module: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a base and put adapters on all its linear layers but the one over the vocabulary, in place.

    Args:
        rank: of the adapters' product.
        alpha: its scale is ``alpha / rank``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="fan_in_fan_out"
        )  # GPT-2's layers keep their weights transposed; peft sees that
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"), module
        )  # freezes what is no adapter
    part: Any  # peft's layers have this attribute
    for part in module.modules():
        if hasattr(part, "cast_input_dtype_enabled"):
            part.cast_input_dtype_enabled = False  # autocast chooses the type; a copy of every input in fp32 would be kept for the backward pass
        if is_plain(part):
            part.plain_forward = part.forward
            part.forward = functools.partial(_joined, part)


def is_plain(module: nn.Module) -> bool:
    """Whether it is a linear layer with one adapter that is nothing but two matrices and a scale."""
    from peft.tuners.lora import Linear

    return (
        isinstance(module, Linear)
        and list(module.lora_A) == [NAME]
        and not module.lora_variant
        and not module.lora_bias[NAME]
        and isinstance(module.lora_dropout[NAME], nn.Identity)
    )


def _joined(layer: Any, inputs: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """What the layer makes of inputs [..., H], ``x W + scale x A B``, the second product added to the first by itself.

    As peft writes it, the scale and the sum go over the whole output once each, and in the backward pass again: in the
    layers of a large decoder that took an eighth of a training step.
    """
    if args or kwargs or layer.disable_adapters or layer.merged:
        return layer.plain_forward(inputs, *args, **kwargs)
    rows = inputs.flatten(0, -2)
    outputs = layer.base_layer(rows)
    inner, weight = layer.lora_A[NAME](rows), layer.lora_B[NAME].weight
    outputs = outputs.addmm_(inner.to(outputs.dtype), weight.t().to(outputs.dtype), alpha=layer.scaling[NAME])
    return outputs.view(*inputs.shape[:-1], -1)


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_" in name


def base_name(name: str) -> str:
    """The name that a base's parameter has without adapters."""
    return name.replace(INNER + ".", ".")


def load_base_weights(
    module: nn.Module, weights: dict[str, torch.Tensor], optional: str | None = None
) -> None:
    """Take a base's weights, strictly, into a module with or without adapters.

    Args:
        optional: what the names of weights begin with that either may have and the other has not.

    Raises:
        ValueError: naming weights that only one of them has.
    """
    names = {base_name(name): name for name in module.state_dict() if not is_adapter(name)}
    different = sorted(
        name for name in set(names) ^ set(weights) if optional is None or not name.startswith(optional)
    )
    if different:
        raise ValueError(
            f"weights of another architecture: {', '.join(different[:3])}{' ...' if len(different) > 3 else ''}"
        )
    module.load_state_dict(
        {names[name]: value for name, value in weights.items() if name in names}, strict=False
    )


def merge_adapters(module: nn.Module) -> int:
    """Add all adapters to the weights that they stand on and take them away, in place; returns how many there were."""
    from peft.tuners.lora import LoraLayer

    merged = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in merged:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
    return len(merged)
