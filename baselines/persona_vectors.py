"""Persona vectors: directions between an instruct model's states under contrasting prompts (Chen et al., 2025, arXiv 2507.21509).

The base writes replies to training contexts, prompted for one aspect at a time (`baselines.prompting`); an aspect's vector is
the mean hidden state of a layer over its replies' tokens minus the mean over those of the attribute's other aspects (section 2.2
of the paper, whose contrast is a trait and its absence; here every other aspect is described as plainly). When replies are written
the prompt names no aspect, and the vectors of the target, times a strength, are added at every token of the reply (section 3.2).
The paper keeps only those replies in which an evaluator sees the trait; an evaluator would have seen the data that we are scored on, so
all are kept. Unlike `baselines.steering` nothing is fine-tuned, and no labelled reply is read.
"""

from dataclasses import replace

import torch

from baselines.language_model import training_rows
from baselines.prompting import Instructed, instructed
from baselines.steering import SteeredDecoder, added, directions, mean_states
from baselines.training import TrainingSetting
from common.errors import InputError
from common.schema import Schema
from dataset.dialogues import Dialogue, every_nth
from generation.options import DecodingArguments
from generation.requests import Request

SAMPLED = DecodingArguments(decoding="top_p", top_p=0.9, temperature=0.7, max_new_tokens=48)


def contrasting_replies(
    base: Instructed,
    fronts: dict[str, list[int]],
    contexts: list[tuple[str, ...]],
    how: DecodingArguments,
    seed: int,
) -> list[tuple[str, Dialogue]]:
    """What the base writes to every context when it is prompted for each aspect alone, with that aspect.

    Args:
        fronts: aspect -> its prompt.

    Raises:
        InputError: for an aspect to whose prompt it writes nothing.
    """
    named = [(aspect, number) for aspect in fronts for number in range(len(contexts))]
    requests = [
        Request(str(number), contexts[number], {base.schema.attribute_of(aspect).name: aspect})
        for aspect, number in named
    ]
    replies = base.write(requests, how, seed, [fronts[aspect] for aspect, _ in named])
    labelled = [
        (aspect, Dialogue(request.id, request.context, reply, request.target))
        for (aspect, _), request, reply in zip(named, requests, replies)
        if reply.strip()
    ]
    if silent := sorted(set(fronts) - {aspect for aspect, _ in labelled}):
        raise InputError(f"persona vectors: the base writes nothing when it is prompted for {silent[0]!r}")
    return labelled


class PersonaVectors:
    """The base with its own contrasts added."""

    name = "persona_vectors"
    has_strength = True

    def __init__(self, base: Instructed, vectors: torch.Tensor, schema: Schema):
        self.base, self.model, self.vectors, self.schema = base, base.model, vectors, schema

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "PersonaVectors":
        """See `baselines.registry.Baseline`; replies are written and read once, no weight is trained."""
        base = instructed(setting, shared)
        fronts = {
            aspect: base.front({attribute.name: aspect})
            for attribute in setting.schema.attributes
            for aspect in attribute.aspects
        }
        different = list(dict.fromkeys(dialogue.context for _, dialogue in setting.dialogues(shared)))
        contexts = every_nth(different, setting.contrast_contexts)
        written = contrasting_replies(base, fronts, contexts, SAMPLED, setting.seed)
        longest = max(map(len, fronts.values()))
        read_by = replace(
            setting, template=base.model.template, decoder_length=setting.decoder_length + longest
        )
        rows = training_rows(base.model.tokenizer, read_by, written, fronts)
        means = mean_states(base.model, rows, len(setting.aspects), setting.batch_size)
        return cls(base, directions(means, setting.schema), setting.schema)

    def write(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        layer: int | None = None,
    ) -> list[str]:
        """See `baselines.registry.Baseline`; strength is what the vectors are multiplied by.

        Args:
            layer: at whose output to add, from 0; None: the one in the middle.
        """
        layer, vectors = added(self, requests, strength, layer)
        fronts = [self.base.front({})] * len(requests)
        return self.base.write(requests, how, seed, fronts, lambda lm: SteeredDecoder(lm, layer, vectors))
