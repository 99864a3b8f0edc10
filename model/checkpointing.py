"""Gradient checkpointing that keeps the latent prefix."""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_layers(module: nn.Module, over: int = 0) -> int:
    """Recompute every transformer layer of `module` in the backward pass; returns how many there are.

    Args:
        over: only for batches of more tokens than that, padding included, which decide how much memory training takes.

    The switch that `transformers` has for this drops ``past_key_values`` in training without an error, and the prefix
    with it, because recomputing a layer would append its keys to the cache twice. Here the layers' own ``forward`` is
    wrapped, and `model.cache.PrefixLayer` has nothing to append to, so recomputing is harmless.
    """
    count = 0
    layer: Any  # a module that gets two attributes of ours
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            count += 1
            layer.recompute_over = over
            if not hasattr(layer, "plain_forward"):
                layer.plain_forward = layer.forward
                layer.forward = functools.partial(_recomputed, layer)
    return count


def _recomputed(layer: Any, *args, **kwargs):
    if not (layer.training and torch.is_grad_enabled()) or args[0].shape[:2].numel() <= layer.recompute_over:
        return layer.plain_forward(*args, **kwargs)
    random = has_dropout(layer)
    if random and args[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return layer.plain_forward(
            *args, **kwargs
        )  # a recorded step cannot go back to the random numbers that it drew
    return checkpoint(layer.plain_forward, *args, use_reentrant=False, preserve_rng_state=random, **kwargs)


def has_dropout(module: nn.Module) -> bool:
    """Whether computing a module twice draws random numbers: it has dropout, as a module or as attention's own rate."""
    rates = (getattr(part, name, 0) for part in module.modules() for name in ("p", "attention_dropout"))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
