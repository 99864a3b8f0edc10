"""FUDGE: the language model's next-token probabilities times a guide's opinion of each candidate (Yang & Klein, NAACL 2021).

At every step the k most probable tokens are scored ``log P(token | text so far) + strength * sum over the named
attributes of log P(aspect | reply so far + token)``; other tokens are left out. Several attributes are independent given
the reply, as the paper takes them (section 3). The guides classify all k candidates exactly, in one pass behind their own caches
(`baselines.guides.Guide.candidates`), and nothing in it depends on the host, so that a step can be recorded.
"""

import torch
from transformers import PreTrainedModel

from baselines.guides import Guide, GuideCache, Guided, encode_replies, sample_name
from baselines.language_model import PlainDecoder, Step, precise
from common.errors import InputError
from generation.options import DecodingArguments
from generation.requests import Request
from model.cache import StaticPrefixCache

LEFT_OUT = 1e4  # taken from the logits of all but the candidates; they keep their order, for steps at which all candidates are banned


class GuidedCache(StaticPrefixCache):
    """The language model's cache, with the guides' beside it.

    Attributes:
        guides: None until the prompt is read.
    """

    guides: list[GuideCache] | None = None

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows of the batch go on."""
        super().keep(rows)
        for cache in self.guides:
            cache.keep(rows)


class GuidedDecoder(PlainDecoder):
    """A language model whose candidates guides have their say about.

    Args:
        guides: one per attribute.
        start: what the guides read before a reply.
        targets: [N, K] aspect indices, -1 where an attribute is not named; the decoder's rows are rows of it.
        candidates: how many tokens the guides classify.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        guides: list[Guide],
        start: list[int],
        targets: torch.Tensor,
        strength: float,
        candidates: int,
    ):
        super().__init__(lm)
        self.guides, self.start, self.targets, self.strength, self.k = (
            guides,
            start,
            targets,
            strength,
            candidates,
        )

    def start_cache(self, rows: torch.Tensor, room: int) -> GuidedCache:
        """As `PlainDecoder.start_cache`; the guides' caches come when it is known how much of the room is for the reply."""
        return GuidedCache(self.prefix(rows), room)

    def call(
        self,
        step: Step,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: GuidedCache,
        logits_to_keep: int = 1,
    ) -> torch.Tensor:
        """Guided logits of the last position, [B, 1, V]; arguments as for `PlainDecoder.call`."""
        logits = super().call(step, mask, position_ids, cache, logits_to_keep=1)[:, -1].float()
        scores, tokens = logits.topk(min(self.k, logits.shape[-1]))
        batch, length, read = *step.ids.shape, step.ids
        if cache.guides is None:  # of the prompt, the guides read the mark of the reply alone
            read = torch.tensor(self.start, device=read.device).expand(batch, -1)
            cache.guides = [
                guide.start_cache(batch, tokens.shape[1], len(self.start) + cache.room - length)
                for guide in self.guides
            ]
        for guide, past, target in zip(self.guides, cache.guides, self.targets[step.rows].unbind(1)):
            opinions = guide.candidates(read, tokens, past)  # [B, k, aspects]
            opinion = opinions.gather(
                2, target.clamp_min(0).view(-1, 1, 1).expand(-1, tokens.shape[1], 1)
            ).squeeze(2)
            scores = scores + self.strength * opinion * (target >= 0).unsqueeze(1)
        return (logits - LEFT_OUT).scatter(1, tokens, scores).unsqueeze(1)


class Fudge(Guided):
    """The uncontrolled language model, guided at every token."""

    name = "fudge"
    has_strength = True

    def write(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, *,
        candidates: int = 50, n: int = 1, fluency: float = 0.0, relevance: float = 0.0,
    ) -> list[str]:  # fmt: skip
        """See `baselines.registry.Baseline`; strength is what the guides' log-probabilities are multiplied by.

        Args:
            candidates: the most probable tokens among which to choose.
            n: whole replies per request, of which the guides choose one, as `baselines.rerank` does; several need top-p sampling.
            fluency, relevance: weights of the language model's likelihoods in that choice, see `generation.choosing.CandidateScores`.
        """
        return self.choose(
            requests,
            self.samples(requests, how, strength, seed, candidates=candidates, n=n),
            how,
            fluency,
            relevance,
        )

    def samples(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        candidates: int = 50,
        n: int = 1,
    ) -> list[list[str]]:
        """What `write` chooses from, n times a reply to every request; arguments as there."""
        if n < 1 or (n > 1 and how.decoding != "top_p"):
            raise InputError(
                f"fudge: n must be at least 1, and 1 where decoding is not top_p; found {n} with {how.decoding}"
            )
        if candidates < 1:
            raise InputError(f"fudge: candidates must be at least 1, found {candidates}")
        targets = self.targets(requests)
        named = (targets >= 0).any(0).nonzero().squeeze(1).tolist()
        guides = [precise(self.guides[index], how, self.model.device) for index in named]
        row = encode_replies(self.model, [""])[0]
        start = row["input_ids"][:-1]  # without the end of the empty reply

        def decoder(lm: PreTrainedModel) -> GuidedDecoder:
            return GuidedDecoder(lm, guides, start, targets[:, named], strength, candidates)

        return [
            self.model.write(requests, how, seed, decoder, purpose=sample_name(number)) for number in range(n)
        ]
