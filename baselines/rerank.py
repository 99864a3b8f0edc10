"""Best of n: samples of the uncontrolled language model, of which the guides choose one."""

import dataclasses

from baselines.guides import Guided, sample_name
from schema import InputError
from scripts.generation import DecodingArguments, Request


class Rerank(Guided):
    """The reply with the greatest sum over the named attributes of log P(aspect | whole reply)."""

    name = "rerank"
    has_strength = False

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
        return self.choose(requests, samples, how.batch_size)
