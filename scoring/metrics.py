"""Every number of the results: what it is called, which way is better, how it is written, what it means.

A new text metric is a function and an entry in `METRICS`.
"""

from dataset.words import words
from scoring.metric import Metric
from scoring.text_metrics import distinct, has_repetition, self_bleu

METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            "accuracy_mean",
            "accuracy",
            "higher",
            ".3f",
            "share of named aspects that the attribute's classifier predicts (arg-max), mean over the attributes named",
            True,
        ),
        Metric(
            "accuracy_joint",
            "joint",
            "higher",
            ".3f",
            "share of replies in which all named aspects are predicted",
            True,
        ),
        Metric(
            "probability_mean",
            "probability",
            "higher",
            ".3f",
            "mean probability of the named aspects by the classifiers",
            True,
        ),
        Metric(
            "nli",
            "coherence",
            "higher",
            ".3f",
            "mean probability that the reply fits its context, by the coherence (NLI) model",
            True,
        ),
        Metric(
            "ppl",
            "perplexity",
            "lower",
            ".1f",
            "of the replies in their context by an external causal LM: exp of all nats over all tokens, nothing dropped",
        ),
        Metric(
            "mauve",
            "MAUVE",
            "higher",
            ".3f",
            "likeness of all replies together to people's, in [0, 1], by a causal LM's states (Pillutla et al., 2021); no interval: it depends on how many there are",
        ),
        Metric(
            "bleu",
            "BLEU",
            "higher",
            ".2f",
            "sacrebleu's corpus BLEU against the references (13a tokens, of Chinese zh, of Japanese ja-mecab or char; exponential smoothing)",
        ),
        Metric(
            "bleu1", "BLEU-1", "higher", ".2f", "mean over replies of sacrebleu's sentence BLEU with 1-grams"
        ),
        Metric("bleu2", "BLEU-2", "higher", ".2f", "the same with 1- and 2-grams"),
        Metric("bleu3", "BLEU-3", "higher", ".2f", "the same up to 3-grams"),
        Metric("bleu4", "BLEU-4", "higher", ".2f", "the same up to 4-grams"),
        Metric(
            "rouge1",
            "ROUGE-1",
            "higher",
            ".2f",
            "mean over replies of rouge-score's F1 of 1-grams (letters of any script; English stemmed)",
        ),
        Metric("rouge2", "ROUGE-2", "higher", ".2f", "the same of 2-grams"),
        Metric("rougeL", "ROUGE-L", "higher", ".2f", "the same of the longest common subsequence"),
        Metric(
            "distinct1",
            "distinct-1",
            "higher",
            ".3f",
            "different words over all words of all replies (Li et al., 2016); no interval: resampling repeats replies",
            of_replies=lambda replies, seed: distinct(replies, 1),
        ),
        Metric(
            "distinct2",
            "distinct-2",
            "higher",
            ".3f",
            "the same of word pairs",
            of_replies=lambda replies, seed: distinct(replies, 2),
        ),
        Metric(
            "distinct3",
            "distinct-3",
            "higher",
            ".3f",
            "the same of word triples",
            of_replies=lambda replies, seed: distinct(replies, 3),
        ),
        Metric(
            "self_bleu",
            "self-BLEU",
            "lower",
            ".1f",
            "mean sentence BLEU of a reply against the others, on a seeded sample (Zhu et al., 2018); no interval: it depends on pairs",
            of_replies=lambda replies, seed: self_bleu(replies, seed=seed),
        ),
        Metric(
            "repetition",
            "repetition",
            "lower",
            ".3f",
            "share of replies in which a 4-gram stands twice",
            of_reply=lambda row: has_repetition(row["response"]),
        ),
        Metric(
            "length",
            "length",
            None,
            ".1f",
            "words between spaces per reply; of scripts without spaces, characters",
            of_reply=lambda row: len(words(row["response"])),
        ),
        Metric(
            "empty",
            "empty",
            "lower",
            ".3f",
            "share of empty replies; they stay in every other number",
            of_reply=lambda row: not row["response"].strip(),
        ),
        Metric("n", "replies", None, "d", "number of replies"),
    )
}


OF_REPLY = {key: metric.of_reply for key, metric in METRICS.items() if metric.of_reply}
OF_REPLIES = {key: metric.of_replies for key, metric in METRICS.items() if metric.of_replies}


def written(key: str, value: float | None) -> str:
    """A value in its metric's form; a dash for what could not be computed."""
    if value is None:
        return "-"
    form = METRICS[key].form
    return format(int(value), form) if form == "d" else format(value, "z" + form)


def excludes_zero(key: str, interval: list[float] | None) -> bool:
    """Whether the interval of a difference lies on one side of 0 as it is written: what is written as 0 may be rounding noise."""
    if not interval:
        return False
    low, high = (float(written(key, end)) for end in interval)
    return low > 0 or high < 0


def arrow(key: str) -> str:
    """An arrow in the direction that is better; empty where neither is."""
    return {"higher": "↑", "lower": "↓", None: ""}[METRICS[key].better]
