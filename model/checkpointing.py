"""Gradient checkpointing that keeps the latent prefix."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_layers(module: nn.Module) -> int:
    """Recompute every transformer layer of `module` in the backward pass; returns how many there are.

    The switch that `transformers` has for this drops ``past_key_values`` in training without an error, and the prefix
    with it, because recomputing a layer would append its keys to the cache twice. Here the layers' own ``forward`` is
    wrapped, and `model.cache.PrefixLayer` has nothing to append to, so recomputing is harmless.
    """
    count = 0
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            count += 1
            if not hasattr(layer, "plain_forward"):
                layer.plain_forward = layer.forward
                layer.forward = functools.partial(_recomputed, layer)
    return count


def _recomputed(layer: nn.Module, *args, **kwargs):
    if layer.training and torch.is_grad_enabled():
        return checkpoint(layer.plain_forward, *args, use_reentrant=False, **kwargs)
    return layer.plain_forward(*args, **kwargs)
