"""Best of n: samples of the uncontrolled language model, of which the guides choose one."""

import dataclasses

import torch

from baselines.guides import Guide, choose, guides, sample_name
from baselines.language_model import LanguageModel, uncontrolled
from baselines.training import TrainingSetting
from schema import InputError, Schema
from scripts.generation import DecodingArguments, Request


class Rerank:
    """The reply with the greatest sum over the named attributes of log P(aspect | whole reply)."""

    name = "rerank"
    has_strength = False

    def __init__(self, model: LanguageModel, guides: list[Guide], schema: Schema):
        self.model, self.guides, self.schema = model, guides, schema

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Rerank":
        """See `baselines.registry.Baseline`."""
        return cls(uncontrolled(setting, shared), guides(setting, shared), setting.schema)

    def write(self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, *, n: int = 16) -> list[str]:
        """See `baselines.registry.Baseline`; strength does not matter, `n` is the dial.

        Args:
            how: top-p sampling, whatever its ``decoding`` says, with its ``top_p`` and ``temperature``.
            n: samples per request; the first is what the uncontrolled method samples.
        """
        if n < 1:
            raise InputError(f"rerank: n must be at least 1, found {n}")
        how = dataclasses.replace(how, decoding="top_p")
        samples = [self.model.write(requests, how, seed, purpose=sample_name(number)) for number in range(n)]
        targets = torch.tensor([self.schema.target_indices(request.target) for request in requests], device=self.model.device)
        return choose(self.guides, self.model, targets, samples, how.batch_size)
