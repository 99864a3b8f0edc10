"""Activation steering: an aspect's direction added to the hidden states of the language model while it writes.

An aspect's vector is the mean hidden state of a layer over the tokens of its training replies minus the mean over the
attribute's other aspects (difference of means: Turner et al., 2023; Rimsky et al., ACL 2024, who add it at every position
after the user's turn, as here). The vectors of several aspects add up. Nothing is trained but the language model.
"""

from typing import Protocol

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from baselines.language_model import (
    DialogueCollator,
    LanguageModel,
    PlainDecoder,
    Step,
    training_rows,
    uncontrolled,
)
from baselines.training import TrainingSetting, all_aspects
from common.errors import InputError
from common.schema import Schema
from dataset.encoding import IGNORED
from generation.options import DecodingArguments
from generation.requests import Request


def layers_of(lm: PreTrainedModel) -> list[torch.nn.Module]:
    """The transformer layers, first to last."""
    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


class SteeredDecoder(PlainDecoder):
    """A language model with a vector added to a layer's output, where the reply's tokens are chosen.

    Args:
        layer: its number, from 0.
        vectors: [N, H]; the decoder's rows are rows of it.
    """

    def __init__(self, lm: PreTrainedModel, layer: int, vectors: torch.Tensor):
        super().__init__(lm)
        self.layer, self.vectors = layers_of(lm)[layer], vectors.to(lm.dtype)

    def call(self, step: Step, *args, **options) -> torch.Tensor:
        """As `PlainDecoder.call`; the vector is added at the last position, so that of the context only the mark of the reply gets it."""
        vectors = self.vectors[step.rows]

        def add(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            return torch.cat([output[:, :-1], output[:, -1:] + vectors.unsqueeze(1)], dim=1)

        hook = self.layer.register_forward_hook(add)
        try:
            return super().call(step, *args, **options)
        finally:
            hook.remove()


@torch.no_grad()
def mean_states(model: LanguageModel, rows: list[dict], n_aspects: int, batch_size: int) -> torch.Tensor:
    """Mean output of every layer over the tokens of each aspect's replies, [layers, aspects, H].

    Args:
        rows: of `training_rows`.
    """
    layers = layers_of(model.lm)
    sums = torch.zeros(len(layers), n_aspects, model.lm.config.hidden_size, device=model.device)
    counts = torch.zeros(n_aspects, device=model.device)
    states: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: states.append(output)) for layer in layers
    ]
    try:
        ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
        for batch in DataLoader(
            ordered, batch_size, collate_fn=DialogueCollator(model.tokenizer.pad_token_id)
        ):
            ids, mask, labels, aspect = (
                batch[key].to(model.device) for key in ("input_ids", "attention_mask", "labels", "aspect")
            )
            PlainDecoder(model.lm).forward(ids, mask, aspect, logits_to_keep=1)
            member = torch.nn.functional.one_hot(aspect, n_aspects).float().T  # [aspects, B]
            reply_tokens = ((labels != IGNORED) & (labels != model.tokenizer.eos_token_id)).float()
            for layer, output in enumerate(states):
                sums[layer] += member @ torch.einsum("bth,bt->bh", output.float(), reply_tokens)
            counts += member @ reply_tokens.sum(1)
            states.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return sums / counts.clamp_min(1).view(1, -1, 1)


def directions(means: torch.Tensor, schema: Schema) -> torch.Tensor:
    """Every aspect's mean minus the mean over its attribute's other aspects; both [layers, aspects, H], aspects in schema order."""
    differences = []
    for attribute_means in means.split([len(attribute.aspects) for attribute in schema.attributes], dim=1):
        others = (attribute_means.sum(1, keepdim=True) - attribute_means) / (attribute_means.shape[1] - 1)
        differences.append(attribute_means - others)
    return torch.cat(differences, dim=1)


class Steered(Protocol):
    """What has vectors of aspects, [layers, aspects, H]."""

    name: str
    model: LanguageModel
    vectors: torch.Tensor
    schema: Schema


def added(
    method: Steered, requests: list[Request], strength: float, layer: int | None
) -> tuple[int, torch.Tensor]:
    """At which layer's output to add, the one in the middle for None, and what to add for each request, [B, H].

    Raises:
        InputError: for a layer that the model does not have.
    """
    n_layers = len(method.vectors)
    layer = (n_layers - 1) // 2 if layer is None else layer
    if not 0 <= layer < n_layers:
        raise InputError(
            f"{method.name.replace('_', ' ')}: layer must be from 0 to {n_layers - 1}, found {layer}"
        )
    member = [
        [float(aspect in request.target.values()) for aspect in all_aspects(method.schema)]
        for request in requests
    ]
    return layer, strength * torch.tensor(member, device=method.model.device) @ method.vectors[layer]


class Steering:
    """The uncontrolled language model with aspects' directions added."""

    name = "steering"
    has_strength = True

    def __init__(self, model: LanguageModel, vectors: torch.Tensor, schema: Schema):
        self.model, self.vectors, self.schema = model, vectors, schema

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Steering":
        """See `baselines.registry.Baseline`."""
        model = uncontrolled(setting, shared)
        rows = training_rows(model.tokenizer, setting, setting.dialogues(shared))
        return cls(
            model,
            directions(mean_states(model, rows, len(setting.aspects), setting.batch_size), setting.schema),
            setting.schema,
        )

    def write(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        layer: int | None = None,
    ) -> list[str]:
        """See `baselines.registry.Baseline`; strength is what the directions are multiplied by.

        Args:
            layer: at whose output to add, from 0; None: the one in the middle.
        """
        layer, vectors = added(self, requests, strength, layer)
        return self.model.write(requests, how, seed, lambda lm: SteeredDecoder(lm, layer, vectors))
