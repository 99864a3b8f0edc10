"""Attention of one new token in decoders whose query heads share keys and values (grouped-query attention: Ainslie et al., EMNLP 2023)."""

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "sdpa_grouped"  # the name under which `transformers` knows it


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options,
) -> tuple[torch.Tensor, None]:
    """`transformers`' scaled dot-product attention, which for one new token reads a group's keys and values once.

    Behind a mask `transformers` repeats them for every query head of the group (5.17 does), which in a large batch is most of
    what a step moves. Here the heads of a group are taken for tokens: they see the same columns.

    Args:
        query: [B, heads, T, head size].
        key, value: [B, key/value heads, keys, head size].
        attention_mask: what may be seen (bool), [B or 1, 1 or heads, T, keys].

    Returns:
        [B, T, heads, head size], and no weights.
    """
    batch, heads, tokens, size = query.shape
    shared = heads // key.shape[1]
    special = any(options.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    masked_by_head = attention_mask is not None and attention_mask.shape[1] != 1
    if tokens != 1 or shared == 1 or masked_by_head or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    states = F.scaled_dot_product_attention(
        query.reshape(batch, key.shape[1], shared, size),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return states.reshape(batch, 1, heads, size), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def group_attention(lm: PreTrainedModel) -> None:
    """Let a causal LM with shared keys and values use `grouped_attention`; any other stays as it is."""
    heads = getattr(lm.config, "num_attention_heads", 1)
    if (
        getattr(lm.config, "num_key_value_heads", None) or heads
    ) != heads and lm.config._attn_implementation == "sdpa":
        lm.set_attn_implementation(GROUPED)


def takes_bool_masks(lm: PreTrainedModel) -> bool:
    """Whether a model's attention takes masks of what may be seen; else it adds them to the scores."""
    return lm.config._attn_implementation in ("sdpa", GROUPED)
