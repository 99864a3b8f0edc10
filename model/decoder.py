"""The latent decoder: a causal language model that reads z through its key/value cache and its embeddings.

z becomes `n_prefix` key/value positions in every layer and an offset added to every token embedding (Li et al.,
EMNLP 2020, call them memory and embedding; the paper's section 3.1 uses both). Ours, and optional: a linear lexical
offset on the next-token logits, the direct path from z to word choice. Only the public interface of
`transformers` is used (`Cache`, ``inputs_embeds``, ``position_ids``), so that any causal LM with plain per-layer
key/value caches works.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Cache, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from model.attention import group_attention, takes_bool_masks
from model.cache import PrefixLayer, StaticPrefixCache
from model.encoder import encoder_config as decoder_config
from model.losses import token_losses

ALIGNED = 64  # columns
CHUNK = 2**25  # logits that are computed at once in training: 0.13 GB in fp32, several times over
RMS_NORMS = (
    "LlamaRMSNorm",
    "MistralRMSNorm",
    "Qwen2RMSNorm",
    "Qwen3RMSNorm",
    "SmolLM3RMSNorm",
    "Phi3RMSNorm",
)  # weight * x / rms(x); others differ
COMPRESSED_CACHE_KEYS = (
    "kv_lora_rank",
    "qk_rope_head_dim",
)  # multi-head latent attention caches no plain keys


def check_plain_cache(config: PreTrainedConfig) -> None:
    """Raises `ValueError` naming what a decoder's cache has that a key/value prefix cannot be put into."""
    unsupported = sorted(
        {kind for kind in getattr(config, "layer_types", None) or [] if kind != "full_attention"}
    )
    unsupported += [key for key in COMPRESSED_CACHE_KEYS if getattr(config, key, None)]
    if (
        getattr(config, "sliding_window", None)
        and getattr(config, "use_sliding_window", True)
        and not unsupported
    ):
        unsupported.append("sliding_window")
    if not hasattr(config, "num_attention_heads") or any(
        word in config.model_type for word in ("mamba", "rwkv", "jamba", "zamba")
    ):
        unsupported.append("recurrent state")
    if "local" in (getattr(config, "attention_layers", None) or []):
        unsupported.append("local attention")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        unsupported.append("attention in both directions")
    if getattr(config, "is_encoder_decoder", False):
        unsupported.append("encoder-decoder")
    if unsupported:
        raise ValueError(
            f"decoder of type {config.model_type!r} keeps {', '.join(unsupported)}; z enters as a key/value prefix, which needs "
            "a causal LM with full attention and a plain key/value cache in every layer (GPT-2, LLaMA, Qwen2, ...)"
        )


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions [B, T] that count real tokens from 0, so that a pre-trained position table is met where it was trained."""
    return (attention_mask.long().cumsum(1) - 1).clamp_min(0)


def position_offset(lm: PreTrainedModel) -> int:
    """Rows of a position table in front of that of position 0: RoBERTa's family leaves the padding token's and those before it out."""
    tables = (
        module
        for name, module in lm.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    )
    return max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)


def positions_limit(lm: PreTrainedModel) -> int | None:
    """How many tokens a language model's position table has room for; None where it has none."""
    positions = getattr(lm.config, "max_position_embeddings", None)
    return None if positions is None else positions - position_offset(lm)


def causal_mask(seen: torch.Tensor, new: int) -> torch.Tensor:
    """What each of the last `new` tokens may see, [B, 1, new, keys] (bool): the real ones up to itself.

    Padding sees itself: attention to nothing at all is not a number.

    Args:
        seen: [B, keys], 1 for real ones.
    """
    past = seen.shape[1] - new
    mask = seen.bool().unsqueeze(1) & torch.ones(
        new, seen.shape[1], dtype=torch.bool, device=seen.device
    ).tril(past)
    mask.diagonal(past, 1, 2).fill_(True)
    return mask.unsqueeze(1)


def mask_for(lm: PreTrainedModel, mask: torch.Tensor) -> torch.Tensor:
    """A mask of what may be seen (bool), [..., T, keys], as the model's attention takes it: all but ``sdpa`` add it to the scores.

    So does ``sdpa`` inside, on a GPU, in every layer anew; for one new token, where each kernel counts, it is done once.
    """
    one = mask.is_cuda and mask.shape[-2] == 1 and not torch.is_autocast_enabled("cuda")
    if takes_bool_masks(lm) and not one:
        return mask
    return torch.zeros_like(mask, dtype=lm.dtype).masked_fill(~mask, torch.finfo(lm.dtype).min)


def cache_shape(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Layers, key/value heads and head size."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return (
        config.num_hidden_layers,
        heads,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )


def fuse_norms(lm: nn.Module) -> None:
    """Let LLaMA's kind of RMS norm be one kernel on a GPU: the same function, without the copies in fp32 that its own code keeps for the backward pass."""
    module: Any  # one of `transformers`' norms, with another forward
    for module in lm.modules():
        if type(module).__name__ in RMS_NORMS:
            module.plain_forward = module.forward
            module.forward = functools.partial(_fused_norm, module)


def _fused_norm(norm: Any, states: torch.Tensor) -> torch.Tensor:
    return (
        rms_norm(norm, states)
        if states.is_cuda and states.dtype == norm.weight.dtype
        else norm.plain_forward(states)
    )


def rms_norm(norm: Any, states: torch.Tensor) -> torch.Tensor:
    """The norm of states [..., H] by PyTorch's own function, computed in fp32."""
    with torch.autocast(states.device.type, enabled=False):
        return F.rms_norm(states, (states.shape[-1],), norm.weight, norm.variance_epsilon)


def align_head(head: nn.Linear) -> None:
    """Let the product over the vocabulary have a multiple of `ALIGNED` columns where it is large and on a GPU.

    Matrix products of an odd number of columns, such as GPT-2's 50,257 tokens, cannot use the fast kernels.
    """
    wrapped: Any = head
    wrapped.plain_forward = head.forward
    wrapped.forward = functools.partial(_aligned, head)


def _aligned(head: Any, states: torch.Tensor) -> torch.Tensor:
    if head.out_features % ALIGNED == 0 or not states.is_cuda or states.shape[:-1].numel() < ALIGNED:
        return head.plain_forward(states)
    return padded_product(
        head, states, torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else states.dtype
    )


def padded_product(head: nn.Linear, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What the linear layer makes of states [..., H], computed in `dtype` with columns of zeros behind the last."""
    rest = -head.out_features % ALIGNED
    weight = F.pad(head.weight.to(dtype), (0, 0, 0, rest))
    bias = None if head.bias is None else F.pad(head.bias.to(dtype), (0, rest))
    return F.linear(states.to(dtype), weight, bias)[..., : head.out_features]


class EmbeddedOffset(nn.Module):
    """A lexical offset through the decoder's own output embedding: logits ``E W z`` with trained W [H, D].

    The same as an offset on the last hidden state. Of all offsets that are linear in z it takes those that the embedding
    can express, with D * H weights instead of D * V.
    """

    def __init__(self, latent_size: int, head: nn.Linear):
        super().__init__()
        self.project = nn.Linear(latent_size, head.weight.shape[1], bias=False)
        self.head = [head]  # it belongs to the language model

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] for z [B, D]."""
        weight = self.head[0].weight
        return F.linear(self.project(z).to(weight.dtype), weight)


class LatentDecoder(nn.Module):
    """A causal LM conditioned on z.

    Attributes:
        steps_can_be_kept: a recorded step reads nothing but weights and what `generation.decoding.DecodingState` holds.
    """

    steps_can_be_kept = True

    def __init__(
        self,
        settings: dict,
        latent_size: int,
        n_prefix: int,
        token_dropout: float,
        lexical_offset: bool = False,
        lexical_embedding: bool = False,
    ):
        super().__init__()
        config = decoder_config(settings)
        if getattr(config, "activation_function", None) == "gelu_new":
            config.activation_function = (
                "gelu_pytorch_tanh"  # the same function in one kernel instead of eight
            )
        check_plain_cache(config)
        self.lm = AutoModelForCausalLM.from_config(config)
        if isinstance(head := self.lm.get_output_embeddings(), nn.Linear):
            align_head(head)
        fuse_norms(self.lm)
        group_attention(self.lm)
        self.n_prefix, self.token_dropout = n_prefix, token_dropout
        self.plain_head: bool | None = None  # see `_plain_head`
        self.n_layers, self.n_heads, self.head_dim = cache_shape(config)
        self.position_offset = position_offset(self.lm)
        self.to_prefix = nn.Linear(latent_size, self.n_layers * 2 * self.n_heads * n_prefix * self.head_dim)
        self.to_offset = nn.Linear(latent_size, config.hidden_size)
        self.to_logits: EmbeddedOffset | nn.Linear | None = None
        if lexical_offset:
            embedded = lexical_embedding and self.lm.get_output_embeddings() is not None
            self.to_logits = (
                EmbeddedOffset(latent_size, self.lm.get_output_embeddings())
                if embedded
                else nn.Linear(latent_size, config.vocab_size, bias=False)
            )

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """The language model's tied weights, by the names that they have here; `transformers` asks children for them."""
        return {f"lm.{target}": f"lm.{source}" for target, source in self.lm.all_tied_weights_keys.items()}

    def prefix(self, z: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values per layer, each [B, key/value heads, n_prefix, head size], from z [B, D]."""
        states = self.to_prefix(z).view(-1, self.n_layers, 2, self.n_heads, self.n_prefix, self.head_dim)
        return [(layer[:, 0], layer[:, 1]) for layer in states.unbind(1)]

    def prefix_mask(self, z: torch.Tensor) -> torch.Tensor:
        """1 for the positions of the prefix that count, [B, n_prefix]: all of them."""
        return torch.ones(z.shape[0], self.n_prefix, dtype=torch.long, device=z.device)

    def embed(self, input_ids: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Token embeddings [B, T, H], some zeroed in training, plus the offset [B, H] of z."""
        embeddings = self.lm.get_input_embeddings()(input_ids)
        if self.training and self.token_dropout > 0:
            kept = torch.rand(input_ids.shape, device=input_ids.device) >= self.token_dropout
            embeddings = embeddings * kept.unsqueeze(-1)
        return embeddings + offset.unsqueeze(1)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, z: torch.Tensor, logits_to_keep: int = 0
    ) -> torch.Tensor:
        """Next-token logits [B, T, V] for ids and mask [B, T] (padded on either side) and z [B, D].

        Args:
            logits_to_keep: only those of the last so many positions; 0: all.
        """
        logits = self.call(*self._inputs(input_ids, attention_mask, z), logits_to_keep=logits_to_keep)
        return logits if self.to_logits is None else logits + self.to_logits(z).unsqueeze(1)

    def losses(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, z: torch.Tensor, kept: int = 0
    ) -> torch.Tensor:
        """Nats of every token given those before it, [B, T - 1] or [B, kept - 1]; see `model.losses.token_losses`.

        Where there are more than `CHUNK` logits, by far the largest tensors of a training step, they are computed for a few
        rows at a time, and once more in the backward pass, if the language model's logits are its output embedding's
        product with its last states.

        Args:
            kept: only the last so many positions; 0: all.
        """
        size = max(1, CHUNK // ((kept or input_ids.shape[1]) * self.lm.config.vocab_size))  # rows
        if not self.training or size >= len(input_ids) or not self._plain_head():
            return token_losses(self.forward(input_ids, attention_mask, z, kept), input_ids[:, -kept:])
        states = self.lm.base_model(
            **self._arguments(*self._inputs(input_ids, attention_mask, z))
        ).last_hidden_state[:, -kept:]
        parts = zip(states.split(size), z.split(size), input_ids[:, -kept:].split(size))
        return torch.cat(
            [
                checkpoint(self._chunk_losses, *part, use_reentrant=False, preserve_rng_state=False)
                for part in parts
            ]
        )

    def _inputs(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, z: torch.Tensor) -> tuple:
        """What `call` takes for whole texts: embeddings, mask, positions and a cache that holds the prefix."""
        cache = Cache(layers=[PrefixLayer(keys, values) for keys, values in self.prefix(z)])
        seen = torch.cat([self.prefix_mask(z), attention_mask], dim=1)
        return self.embed(input_ids, self.to_offset(z)), seen, positions_of(attention_mask), cache

    def _chunk_losses(self, states: torch.Tensor, z: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = self.lm.get_output_embeddings()(states)
        return token_losses(
            logits if self.to_logits is None else logits + self.to_logits(z).unsqueeze(1), ids
        )

    def _plain_head(self) -> bool:
        """Whether nothing stands between the last states, the output embedding and the logits; looked at once."""
        if self.plain_head is None:
            head, training = self.lm.get_output_embeddings(), self.lm.training
            device = self.lm.get_input_embeddings().weight.device
            ids = torch.arange(4, device=device).unsqueeze(0)
            self.lm.eval()
            with torch.no_grad():
                states = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
                self.plain_head = isinstance(head, nn.Linear) and torch.allclose(
                    head(states), self.lm(input_ids=ids, use_cache=False).logits, atol=1e-2, rtol=1e-2
                )
            self.lm.train(training)
        return self.plain_head

    def call(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: Cache,
        **options,
    ) -> torch.Tensor:
        """One call of the language model behind a cache that begins with the prefix.

        Args:
            embeddings: [B, T, H].
            mask: [B, keys], 1 for real ones, or what each token may see, [B, 1, T, keys] (bool).
            position_ids: [B, T].

        Returns:
            Logits [B, T, V].
        """
        return self.lm(**self._arguments(embeddings, mask, position_ids, cache), **options).logits

    def _arguments(
        self, embeddings: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache
    ) -> dict:
        """What the language model is called with, for its logits or for its last states; arguments as for `call`."""
        return {
            "inputs_embeds": embeddings.to(self.lm.get_input_embeddings().weight.dtype),
            "attention_mask": mask_for(self.lm, mask) if mask.ndim == 4 else mask,
            "position_ids": position_ids + self.position_offset,
            "past_key_values": cache,
            "use_cache": True,
        }

    def start_cache(self, z: torch.Tensor, room: int) -> StaticPrefixCache:
        """A cache with room for so many tokens behind the prefix of z [B, D], for generation."""
        dtype = self.lm.dtype
        prefix = [(keys.to(dtype), values.to(dtype)) for keys, values in self.prefix(z)]
        return StaticPrefixCache(prefix, room)
