"""Which of several candidates for a reply is kept: the candidate scores, and how they are weighed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from common.options import within
from dataset.batching import pad, pad_inputs
from dataset.encoding import IGNORED
from model.losses import token_losses

LARGEST = 4096  # positions whose logits are computed at once: of a vocabulary of 50,000 they take 0.8 GB, several times over
LARGEST_ON_GPU = (
    16384  # where there is memory for them: a small model's batch takes Python as long as the GPU
)
STRONGEST = 1e30  # weight of a score; what is much larger has no sum in 32 bits
LogitsOf = Callable[[torch.Tensor, torch.Tensor, list[int], int], torch.Tensor]


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
    logits_of: LogitsOf,
    pad_token_id: int,
    batch_size: int,
    positions: int | None = None,
) -> CandidateScores:
    """All three scores of B candidates.

    Args:
        attributes: [B].
        within, without: the candidates behind their context and behind none, rows of `dataset.encoding.encode_for_decoder`.
        logits_of, positions: see `log_likelihoods`.
    """
    likely, tokens = log_likelihoods(within, logits_of, pad_token_id, batch_size, positions)
    anyway, _ = log_likelihoods(without, logits_of, pad_token_id, batch_size, positions)
    return CandidateScores(attributes, likely / tokens, (likely - anyway) / tokens)


@torch.no_grad()
def log_likelihoods(
    rows: list[dict], logits_of: LogitsOf, pad_token_id: int, batch_size: int, positions: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood in nats and number of tokens, the end included, of every row's reply, [B] each, on the CPU.

    Args:
        rows: with ``input_ids`` and ``labels``, see `dataset.encoding.encode_for_decoder`.
        logits_of: (ids [b, T], mask [b, T], which of the rows these are, k) -> next-token logits [b, k, V] of the last k
            positions. Padding is on the left, so that all replies end in the last column.
        positions: of a batch, that have logits; default: `LARGEST`.
    """
    totals, counts = torch.zeros(len(rows)), torch.ones(len(rows))
    for chosen in _batches(rows, batch_size, positions or LARGEST):
        batch = pad_inputs([rows[index] for index in chosen], pad_token_id, side="left")
        labels = pad([rows[index]["labels"] for index in chosen], IGNORED, side="left")
        last = 1 + int((labels != IGNORED).sum(1).max())  # the token in front of a reply predicts its first
        logits = logits_of(batch["input_ids"], batch["attention_mask"], chosen, last)
        own = (labels[:, -last + 1 :] != IGNORED).to(logits.device)
        losses = token_losses(logits, batch["input_ids"][:, -last:].to(logits.device)) * own
        totals[chosen], counts[chosen] = -losses.sum(1).float().cpu(), own.sum(1).float().cpu()
    return totals, counts


def positions_at_once(device: torch.device, vocabulary: int) -> int:
    """How many positions' logits there is room for, with what is computed from them."""
    if device.type != "cuda":
        return LARGEST
    there = torch.cuda.get_device_properties(device).total_memory // (
        64 * vocabulary
    )  # a sixteenth of it, in fp32
    return max(LARGEST, min(LARGEST_ON_GPU, there))


def _batches(rows: list[dict], batch_size: int, positions: int) -> Iterator[list[int]]:
    """Numbers of rows of similar length, as many as can be looked at at once."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    replies = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    chosen: list[int] = []
    longest = 0  # of their replies
    for index in order:
        longest = max(longest, replies[index])
        if chosen and (len(chosen) == batch_size or (len(chosen) + 1) * (longest + 1) > positions):
            yield chosen
            chosen, longest = [], replies[index]
        chosen.append(index)
    if chosen:
        yield chosen
