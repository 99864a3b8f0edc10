"""Prefix tuning: one key/value prefix per aspect on the frozen language model (Li & Liang, ACL 2021).

The prefixes are `peft`'s prefix encoders. They are put into the cache as `model.decoder` puts z there, with positions that
count real tokens from 0, because `peft`'s own model shifts the positions of the text by the prefix's length. A prefix
begins as the keys and values of a training reply's first tokens: the paper found activations of real words better than
random numbers where there is little data (section 7.4). We train keys and values themselves, without the paper's
reparametrisation by an MLP (section 4.3), which made training from random numbers stable.
"""

import dataclasses
import itertools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.language_model import (
    DialogueCollator,
    LanguageModel,
    PlainDecoder,
    reply_loss,
    training_rows,
    uncontrolled,
)
from baselines.training import TrainingSetting, all_aspects, optimise
from common.errors import InputError
from common.schema import Schema
from dataset.encoding import text_ids
from generation.options import DecodingArguments
from generation.requests import Request
from model.decoder import cache_shape

COMBINATIONS = ("average", "concatenate")


def import_peft() -> ModuleType:
    """The library, which nothing else here needs; raises `InputError` where it is missing."""
    try:
        import peft
    except ImportError:
        raise InputError(
            "prefix tuning needs peft, which is not installed: pip install peft, in the environment that runs this"
        ) from None
    return peft


class Prefixes(nn.Module):
    """The prefixes of all aspects."""

    def __init__(self, config: PreTrainedConfig, length: int, n_aspects: int):
        super().__init__()
        layers, heads, size = cache_shape(config)
        self.shape = (length, 2 * layers, heads, size)
        peft = import_peft()
        settings = peft.PrefixTuningConfig(
            num_virtual_tokens=length, token_dim=heads * size, num_layers=layers
        )
        self.encoders = nn.ModuleList(peft.PrefixEncoder(settings) for _ in range(n_aspects))

    def forward(self) -> torch.Tensor:
        """[aspects, P, 2 * layers, heads, head size]; a layer's keys stand before its values."""
        positions = torch.arange(self.shape[0], device=self.encoders[0].embedding.weight.device)
        return torch.stack([encoder(positions).view(self.shape) for encoder in self.encoders])

    @torch.no_grad()
    def start_from(self, lm: PreTrainedModel, number: int, ids: list[int]) -> None:
        """Let an aspect's prefix be what the model keeps of P tokens of text."""
        cache = lm(input_ids=torch.tensor([ids], device=lm.device), use_cache=True).past_key_values
        states = torch.cat(
            [part for layer in cache.layers for part in (layer.keys, layer.values)]
        )  # [2 * layers, heads, P, head size]
        self.encoders[number].embedding.weight.copy_(states.permute(2, 0, 1, 3).flatten(1))


def combine(prefixes: torch.Tensor, aspect_ids: torch.Tensor, combination: str) -> torch.Tensor:
    """The prefixes that each reply names as one.

    Args:
        prefixes: [aspects, P, ...], as `Prefixes` gives them.
        aspect_ids: [B, K] numbers of aspects, -1 where none is named.
        combination: ``average``, the mean of keys and values, [B, P, ...], or ``concatenate``, one after the other,
            [B, K * P, ...]; what is not named is 0 and must be masked.
    """
    if combination == "concatenate":
        named = (aspect_ids >= 0).view(*aspect_ids.shape, *[1] * (prefixes.ndim - 1))
        return (prefixes[aspect_ids.clamp_min(0)] * named).flatten(1, 2)
    member = F.one_hot(aspect_ids + 1, len(prefixes) + 1)[..., 1:].sum(1).to(prefixes.dtype)  # [B, aspects]
    share = member / member.sum(1, keepdim=True).clamp_min(1)
    return (share @ prefixes.flatten(1)).unflatten(1, prefixes.shape[1:])


class PrefixDecoder(PlainDecoder):
    """A language model whose cache begins with the combined prefixes of each reply's aspects.

    Args:
        prefixes: gives the prefixes of all aspects.
        aspect_ids: [N, K], as in `combine`; the decoder's rows are rows of it.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        prefixes: Callable[[], torch.Tensor],
        aspect_ids: torch.Tensor,
        combination: str = "average",
    ):
        super().__init__(lm)
        self.prefixes, self.aspect_ids, self.combination = prefixes, aspect_ids, combination
        self.length = prefixes().shape[1]
        self.n_prefix = self.length * (aspect_ids.shape[1] if combination == "concatenate" else 1)

    def prefix(self, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The combined prefixes, as `PlainDecoder.prefix` says."""
        states = combine(self.prefixes(), self.aspect_ids[rows], self.combination).permute(
            2, 0, 3, 1, 4
        )  # [2 * layers, B, heads, P, head size]
        return list(zip(states[::2], states[1::2]))

    def prefix_mask(self, rows: torch.Tensor) -> torch.Tensor:
        """1 for prefixes of named aspects, [B, n_prefix]."""
        named = (self.aspect_ids[rows] >= 0).long()
        named = named if self.combination == "concatenate" else named.amax(1, keepdim=True)
        return named.repeat_interleave(self.length, dim=1)


class PrefixTuning:
    """The uncontrolled language model with a prefix per aspect."""

    name = "prefix_tuning"
    has_strength = False

    def __init__(self, model: LanguageModel, prefixes: Prefixes, schema: Schema):
        self.model, self.prefixes, self.schema = model, prefixes, schema

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "PrefixTuning":
        """See `baselines.registry.Baseline`; the prefixes of all aspects are trained together, each on its own dialogues.

        Raises:
            InputError: without `peft`.
        """
        import_peft()  # before anything is trained
        model = uncontrolled(setting, shared)
        with setting.seeded(cls.name):
            prefixes = Prefixes(model.lm.config, setting.prefix_length, len(setting.aspects)).to(
                setting.device
            )
            dialogues = setting.dialogues(shared)
            for number, aspect in enumerate(setting.aspects):
                replies = [
                    setting.template.turn_start + dialogue.response
                    for shown, dialogue in dialogues
                    if shown == aspect
                ][: setting.prefix_length]
                if not replies:
                    raise InputError(f"prefix tuning: no training dialogue shows {aspect!r}")
                words = itertools.cycle(itertools.chain(*text_ids(model.tokenizer, replies)))
                prefixes.start_from(model.lm, number, list(itertools.islice(words, setting.prefix_length)))
            decoder = PrefixDecoder(
                model.lm, prefixes, torch.arange(len(setting.aspects), device=setting.device).unsqueeze(1)
            )
            rows = training_rows(model.tokenizer, setting, dialogues)
            collate, new = DialogueCollator(model.tokenizer.pad_token_id), frozenset(prefixes.parameters())
            rates = dataclasses.replace(setting, new_learning_rate=setting.prefix_learning_rate)
            optimise(
                cls.name,
                prefixes,
                rows,
                collate,
                lambda batch: reply_loss(decoder, batch),
                rates,
                setting.epochs,
                new,
            )
        return cls(model, prefixes, setting.schema)

    @torch.no_grad()
    def write(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        combination: str = "average",
    ) -> list[str]:
        """See `baselines.registry.Baseline`; strength does not matter.

        Args:
            combination: of several aspects, ``average`` or ``concatenate``.
        """
        if combination not in COMBINATIONS:
            raise InputError(
                f"prefix tuning: combination must be one of {COMBINATIONS}, found {combination!r}"
            )
        number = {aspect: index for index, aspect in enumerate(all_aspects(self.schema))}
        aspect_ids = [
            [number.get(request.target.get(name), -1) for name in self.schema.names] for request in requests
        ]
        aspect_ids, states = torch.tensor(aspect_ids, device=self.model.device), self.prefixes()
        return self.model.write(
            requests, how, seed, lambda lm: PrefixDecoder(lm, lambda: states, aspect_ids, combination)
        )
