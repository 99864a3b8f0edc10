"""Which of several candidates for a reply is kept: the candidate scores, and how they are weighed."""

import math
from dataclasses import dataclass

import torch

from common.options import within
from generation.decoding import Decoder
from generation.likelihoods import log_likelihoods

STRONGEST = 1e30  # weight of a score; what is much larger has no sum in 32 bits


@dataclass(frozen=True)
class CandidateScores:
    """What speaks for each of B candidates, on the CPU.

    Attributes:
        attributes: log-probability of the named aspects by whoever reads the reply, [B].
        fluency: log-likelihood of the reply given its context, nats per token (the end included), [B]; at most 0.
        relevance: by how much the context makes the reply likelier, nats per token, [B]: its pointwise mutual information
            with the context over its length, which a reply that fits every context has not (Li et al., NAACL 2016).
    """

    attributes: torch.Tensor
    fluency: torch.Tensor | None = None
    relevance: torch.Tensor | None = None

    def best(self, n: int, fluency: float, relevance: float) -> list[int]:
        """Which of the first, second, ... `n` candidates has the greatest weighed sum; the first of equal ones.

        Args:
            fluency, relevance: their weights; that of `attributes` is 1.
        """
        total = self.attributes.clone()
        for weight, score in ((fluency, self.fluency), (relevance, self.relevance)):
            if weight:
                assert score is not None, "candidates that are weighed by a score have it"
                total += weight * score
        return total.view(-1, n).argmax(1).tolist()


def check_weights(**weights: object) -> None:
    """Raises `InputError` for a named weight of the choice that is no number from 0 to `STRONGEST`."""
    for name, weight in weights.items():
        right = isinstance(weight, (int, float)) and 0 <= weight < math.inf
        within(name, weight, right, "of 0 or more")
        within(name, weight, weight <= STRONGEST, f"of at most {STRONGEST:g}")  # type: ignore[operator]


def best_of(samples: list[list[str]], scores: CandidateScores, fluency: float, relevance: float) -> list[str]:
    """Of several replies to every request the best.

    Args:
        samples: n times a reply to each of N requests.
        scores: of all N * n, a request's behind one another.
        fluency, relevance: see `CandidateScores.best`.
    """
    return [
        samples[number][index] for index, number in enumerate(scores.best(len(samples), fluency, relevance))
    ]


def candidate_scores(
    attributes: torch.Tensor,
    within: list[dict],
    without: list[dict],
    decoder: Decoder,
    conditions: torch.Tensor,
    pad_token_id: int,
    batch_size: int,
    positions: int | None = None,
) -> CandidateScores:
    """All three scores of B candidates.

    Args:
        attributes: [B].
        within, without: the candidates behind their context and behind none, rows of `dataset.encoding.encode_for_decoder`.
        others: see `generation.likelihoods.log_likelihoods`.
    """
    likely, tokens = log_likelihoods(within, decoder, conditions, pad_token_id, batch_size, positions)
    anyway, _ = log_likelihoods(without, decoder, conditions, pad_token_id, batch_size, positions)
    return CandidateScores(attributes, likely / tokens, (likely - anyway) / tokens)
