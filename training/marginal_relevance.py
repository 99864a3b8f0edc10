"""Choosing texts that are good and unlike each other: greedy maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998)."""

import heapq
from collections.abc import Sequence

from scoring.text_metrics import ngrams


def marginally_best(texts: Sequence[str], scores: Sequence[float], most: int, diversity: float) -> list[int]:
    """Positions of the texts chosen, in the order in which they were.

    Each time the one is taken whose score less `diversity` times its redundancy is highest; of equal ones the first. A text's
    redundancy is the share of its different bigrams of words that the chosen texts hold already, one less its contribution to
    their distinct-2. It can only grow, so that a text whose value still leads once it is looked at again needs no comparison
    with the others (lazy greedy: Minoux, 1978).

    Args:
        texts, scores: one score per text; higher is better.
        most: how many to choose.
        diversity: 0 chooses by score alone.
    """
    bigrams = [frozenset(ngrams(text.casefold(), 2)) for text in texts]
    held: set[tuple[str, ...]] = set()
    heap = [(-score, position) for position, score in enumerate(scores)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < most:
        _, position = heap[0]
        own = bigrams[position]
        redundancy = len(own & held) / len(own) if own else 0.0
        now = (diversity * redundancy - scores[position], position)
        heapq.heappop(heap)
        if heap and now > heap[0]:
            heapq.heappush(heap, now)
            continue
        chosen.append(position)
        held |= own
    return chosen
