"""Metrics of the text alone, by the field's standard libraries; words are those of `dataset.words` unless said otherwise."""

import functools
import random
import unicodedata
from collections.abc import Sequence

import numpy as np
import regex
import sacrebleu

from dataset.words import HAN, KANA, unspaced, words

BLEU_STATISTICS = 10  # per reply: matches and totals of 1- to 4-grams, two lengths
TOKENIZERS = ("13a", "zh", "ja-mecab", "char")  # sacrebleu's
ROUGE_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")


def bleu_tokenizer(text: str) -> str:
    """sacrebleu's tokenizer for a text's script: 13a where there are spaces, zh for Chinese, ja-mecab for Japanese.

    Without MeCab (``pip install "sacrebleu[ja]"``), and for the other scripts without spaces, it is ``char``; flores200's
    needs a download, which scoring does not make.
    """
    if not unspaced(text):
        return "13a"
    if KANA.search(text):
        return "ja-mecab" if _mecab() else "char"
    return "zh" if HAN.search(text) else "char"


@functools.cache
def _mecab() -> bool:
    try:
        _bleu_of("ja-mecab").sentence_score("は", ["は"])
    except (RuntimeError, ImportError):
        return False
    return True


@functools.cache
def _bleu_of(tokenizer: str) -> sacrebleu.BLEU:
    return sacrebleu.BLEU(effective_order=True, tokenize=tokenizer)


class RougeTokenizer:
    """rouge-score's tokenizer with letters beyond ASCII, to which that is deaf: texts in ASCII come out the same.

    Words are runs of letters, marks and digits in lower case; English ones are stemmed as rouge-score does. Of scripts
    without spaces every character is a word.
    """

    def __init__(self):
        from rouge_score.tokenizers import DefaultTokenizer

        self.ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """A text's words."""
        if text.isascii():
            return self.ascii.tokenize(text)
        found = ROUGE_WORDS.findall(unicodedata.normalize("NFC", text).lower())
        return [
            part
            for word in found
            for part in (
                words(word) if unspaced(word) else self.ascii.tokenize(word) if word.isascii() else [word]
            )
        ]


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words, in order."""
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def distinct(replies: list[str], n: int) -> float | None:
    """Different n-grams over all n-grams of all replies (Li et al., 2016); None where there is no n-gram.

    n-grams are compared by their 64-bit hashes, which keeps millions of them small.
    """
    hashes = np.fromiter((hash(gram) for reply in replies for gram in ngrams(reply, n)), dtype=np.int64)
    return len(np.unique(hashes)) / len(hashes) if len(hashes) else None


def has_repetition(reply: str, n: int = 4) -> bool:
    """Whether an n-gram stands twice in a reply."""
    grams = ngrams(reply, n)
    return len(set(grams)) < len(grams)


def bleu_statistics(reply: str, reference: str) -> list[int]:
    """What BLEU is made of: matching and all n-grams of the reply for n = 1 to 4, its length and the reference's.

    sacrebleu's, with the tokens of `bleu_tokenizer`; added up over replies they give corpus BLEU.
    """
    score = _bleu_of(bleu_tokenizer(f"{reference} {reply}")).sentence_score(reply, [reference])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _bleu(statistics: Sequence[float], order: int, effective_order: bool) -> float:
    numbers = [round(value) for value in statistics]
    correct, total, (length, reference_length) = numbers[:order], numbers[4 : 4 + order], numbers[8:]
    if not length:  # sacrebleu calls no words at all 0 as well, but divides by them first
        return 0.0
    return sacrebleu.BLEU.compute_bleu(
        correct,
        total,
        length,
        reference_length,
        smooth_method="exp",
        effective_order=effective_order,
        max_ngram_order=order,
    ).score


def sentence_bleu(statistics: Sequence[float], order: int) -> float:
    """sacrebleu's sentence BLEU of up to `order`-grams, in [0, 100]: exponential smoothing, effective order."""
    return _bleu(statistics, order, effective_order=True)


def corpus_bleu(sums: Sequence[float]) -> float | None:
    """sacrebleu's corpus BLEU (exponential smoothing) of summed `bleu_statistics`, in [0, 100].

    None where there is no reference.
    """
    return _bleu(sums, 4, effective_order=False) if sums[9] else None


def self_bleu(replies: list[str], sample: int = 100, seed: int = 0) -> float | None:
    """Mean sentence BLEU of each reply against the others (Zhu et al., 2018), in [0, 100]; high = all alike.

    Args:
        sample: that many replies, drawn with `seed`, stand for all.
    """
    if len(replies) < 2:
        return None
    chosen = random.Random(seed).sample(replies, min(sample, len(replies)))
    scorer = _bleu_of(bleu_tokenizer(" ".join(chosen)))
    scores = [
        scorer.sentence_score(reply, chosen[:i] + chosen[i + 1 :]).score for i, reply in enumerate(chosen)
    ]
    return float(np.mean(scores))


def rouge(replies: list[str], references: list[str]) -> dict[str, list[float]]:
    """rouge-score's F1 of ROUGE-1, -2 and -L per reply (words of `RougeTokenizer`), in [0, 100]."""
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk and scipy.stats, most of a second

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=RougeTokenizer())
    scores = [scorer.score(reference, reply) for reply, reference in zip(replies, references)]
    return {
        name: [100.0 * score[name].fmeasure for score in scores] for name in ("rouge1", "rouge2", "rougeL")
    }
