"""Best of n: samples of the uncontrolled language model, of which the guides choose one."""

import dataclasses

from baselines.guides import Guided, sample_name
from common.errors import InputError
from generation.options import DecodingArguments
from generation.requests import Request


class Rerank(Guided):
    """The reply in which the guides predict the named aspects best, or that is best weighed with its likelihoods."""

    name = "rerank"
    has_strength = False

    def write(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, *, n: int = 16, fluency: float = 0.0, relevance: float = 0.0
    ) -> list[str]:  # fmt: skip
        """See `baselines.registry.Baseline`; strength does not matter, `n` is the dial.

        Args:
            how: top-p sampling, whatever its ``decoding`` says, with its ``top_p`` and ``temperature``.
            n: samples per request; the first is what the uncontrolled method samples.
            fluency, relevance: weights of the language model's likelihoods in the choice, see `generation.choosing.CandidateScores`.
        """
        return self.choose(
            requests, self.samples(requests, how, strength, seed, n=n), how, fluency, relevance
        )

    def samples(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, *, n: int = 16
    ) -> list[list[str]]:
        """What `write` chooses from, n times a reply to every request; arguments as there."""
        if n < 1:
            raise InputError(f"rerank: n must be at least 1, found {n}")
        how = dataclasses.replace(how, decoding="top_p")
        return [self.model.write(requests, how, seed, purpose=sample_name(number)) for number in range(n)]
