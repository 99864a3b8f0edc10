"""Attention and feed-forward layers of LLaMA's kind in fewer kernels, for writing on a GPU.

A step that writes one token of one reply consists of hundreds of small kernels, whose launches cost more than their
arithmetic. As `transformers` writes it a layer takes about 28, here 16: the products that read the same states are one, whose
weights lie side by side in memory, and the rotation of queries and keys (RoPE: Su et al., 2021) is three kernels, not
ten. The function is the same but for rounding. Training, CPUs and other kinds of layers use the library's code.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from model.attention import GROUPED, grouped_attention

ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")  # rotate all of q and k, norm neither
FEED_FORWARDS = ("LlamaMLP", "MistralMLP", "Qwen2MLP")  # down(act(gate) * up)


def fuse_layers(lm: nn.Module) -> None:
    """Let the layers of a causal LM that writes replies take fewer kernels on a GPU, in place; adapters are merged before.

    The model is not to be trained afterwards: weights move in memory at the first step on a GPU.
    """
    rotation = Rotation()
    module: Any  # one of `transformers`' layers, with another forward
    for module in lm.modules():
        kind = type(module).__name__
        if kind in ATTENTIONS and module.config._attn_implementation in ("sdpa", GROUPED):
            layers = [module.q_proj, module.k_proj, module.v_proj]
            forward: Callable = functools.partial(attend, module, rotation)
        elif kind in FEED_FORWARDS:
            layers, forward = [module.gate_proj, module.up_proj], functools.partial(feed_forward, module)
        else:
            continue
        if all(type(layer) is nn.Linear for layer in layers):
            module.side_by_side = SideBySide(layers)
            module.plain_forward, module.forward = module.forward, forward


class SideBySide:
    """Linear layers of the same inputs, and their weights as one; each layer keeps its own, which is a part of that."""

    def __init__(self, layers: list[nn.Linear]):
        self.layers = layers
        self.weight: torch.Tensor | None = None  # [sum of outputs, inputs]
        self.bias: torch.Tensor | None = None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """All layers' outputs side by side, [..., sum of outputs], for states [..., inputs]."""
        if self.weight is None or self.weight.data_ptr() != self.layers[0].weight.data_ptr():
            self._join()
        assert self.weight is not None
        return F.linear(states, self.weight, self.bias)

    def _join(self) -> None:
        """Put the layers' weights into one block of memory, once, and after each time that they were moved or converted."""
        self.weight = torch.cat([layer.weight.data for layer in self.layers])
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        self.bias = torch.cat([bias.data for bias in biases]) if biases else None
        sizes = [layer.out_features for layer in self.layers]
        for layer, weight in zip(self.layers, self.weight.split(sizes)):
            layer.weight.data = weight


def takes_fewer_kernels(module: Any, states: torch.Tensor) -> bool:
    """Whether a layer is used for writing on a GPU, with states and weights of the same type."""
    return (
        states.is_cuda
        and not torch.is_grad_enabled()
        and not module.training
        and states.dtype == module.side_by_side.layers[0].weight.dtype
        and not torch.is_autocast_enabled("cuda")
    )


class Rotation:
    """Rotates the halves of every head against each other by angles that all layers of a step share."""

    def __init__(self) -> None:
        self._sine: torch.Tensor | None = None  # as the model gives it, and with the signs of the halves
        self._signed = torch.empty(0)

    def __call__(self, heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, turned: int) -> torch.Tensor:  # fmt: skip
        """The first `turned` of heads [B, T, heads, head size], rotated by angles whose cosine and sine are [B, T, head size]."""
        half = heads.shape[-1] // 2
        if self._sine is not sine:
            self._sine = sine
            self._signed = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1).unsqueeze(2)
        across = heads.roll(half, -1)[:, :, :turned]
        return torch.addcmul(heads[:, :, :turned] * cosine.unsqueeze(2), across, self._signed)


def attend(
    attention: Any,
    rotation: Rotation,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """What a self-attention layer makes of states [B, T, H]; arguments as `transformers` gives them."""
    if attention_mask is None or past_key_values is None or not takes_fewer_kernels(attention, hidden_states):
        return attention.plain_forward(
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **options,
        )
    size = attention.head_dim
    heads = attention.side_by_side(hidden_states).unflatten(-1, (-1, size))
    queries, shared = attention.q_proj.out_features // size, attention.k_proj.out_features // size
    turned = rotation(heads, *position_embeddings, queries + shared)
    query, key = turned[:, :, :queries].transpose(1, 2), turned[:, :, queries:].transpose(1, 2)
    value = heads[:, :, queries + shared :].transpose(1, 2)
    key, value = past_key_values.update(key, value, attention.layer_idx)
    states, _ = grouped_attention(attention, query, key, value, attention_mask, scaling=attention.scaling)
    return attention.o_proj(states.flatten(2)), None


def feed_forward(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """What a gated feed-forward layer makes of states [..., H]."""
    if not takes_fewer_kernels(layer, states):
        return layer.plain_forward(states)
    gate, up = layer.side_by_side(states).chunk(2, -1)
    return layer.down_proj(layer.act_fn(gate) * up)
