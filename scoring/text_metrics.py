"""Metrics of the text alone, by the field's standard libraries; words are whitespace words unless said otherwise."""

import random
from collections.abc import Callable

import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's whitespace words, in order."""
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(replies: list[str], n: int) -> float | None:
    """Different n-grams over all n-grams of all replies (Li et al., 2016); None where there is no n-gram."""
    seen = [gram for reply in replies for gram in ngrams(reply, n)]
    return len(set(seen)) / len(seen) if seen else None


def has_repetition(reply: str, n: int = 4) -> bool:
    """Whether an n-gram stands twice in a reply."""
    grams = ngrams(reply, n)
    return len(set(grams)) < len(grams)


def corpus_bleu(replies: list[str], references: list[str]) -> float | None:
    """sacrebleu's corpus BLEU (13a tokens, exponential smoothing), in [0, 100]."""
    return sacrebleu.corpus_bleu(replies, [references]).score if replies else None


def self_bleu(replies: list[str], sample: int = 100, seed: int = 0) -> float | None:
    """Mean sentence BLEU of each reply against the others (Zhu et al., 2018), in [0, 100]; high = all alike.

    Args:
        sample: that many replies, drawn with `seed`, stand for all.
    """
    if len(replies) < 2:
        return None
    chosen = random.Random(seed).sample(replies, min(sample, len(replies)))
    metric = sacrebleu.BLEU(effective_order=True)
    scores = [metric.sentence_score(reply, chosen[:i] + chosen[i + 1 :]).score for i, reply in enumerate(chosen)]
    return float(np.mean(scores))


def rouge(replies: list[str], references: list[str]) -> dict[str, list[float]]:
    """rouge-score's F1 of ROUGE-1, -2 and -L per reply (stemmed), in [0, 100]."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(reference, reply) for reply, reference in zip(replies, references)]
    return {name: [100.0 * score[name].fmeasure for score in scores] for name in ("rouge1", "rouge2", "rougeL")}


def bootstrap_interval(
    groups: list[list[int]], statistic: Callable[[np.ndarray], float], samples: int = 1000, seed: int = 0
) -> list[float] | None:
    """A 95 % percentile interval over resampled groups.

    Args:
        groups: indices of the replies that belong together (those to one context), which are drawn together.
        statistic: indices -> value.
    """
    if len(groups) < 2:
        return None
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(group) for group in groups]
    draws = [statistic(np.concatenate([arrays[i] for i in rng.integers(len(arrays), size=len(arrays))])) for _ in range(samples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(low), float(high)]
