"""Metrics against hand-worked examples and against their definitions."""

import math

import pytest
import sacrebleu
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dataset.encoding import DialogueTemplate
from dataset.tokenizers import train_decoder_tokenizer
from schema import load_schema
from scoring.audit import audit_warnings
from scoring.perplexity import PerplexityModel, perplexity
from scoring.results import measure, results
from scoring.table import table
from scoring.text_metrics import bootstrap_interval, corpus_bleu, distinct, has_repetition, rouge, self_bleu


def test_distinct_counts_different_ngrams_over_all_of_them():
    assert distinct(["a b a", "b a"], 1) == 2 / 5
    assert distinct(["a b a", "b a"], 2) == 2 / 3
    assert distinct(["a", ""], 2) is None


def test_repetition_is_a_4_gram_that_stands_twice():
    assert has_repetition("a b c d x a b c d")
    assert not has_repetition("a b c a b c")


def test_bleu_of_the_reference_itself_is_100_and_of_nothing_is_none():
    assert corpus_bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(100)
    assert corpus_bleu([], []) is None


def test_bleu_by_hand():
    """Four words of five right in order: precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty."""
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert corpus_bleu(["a b c d x"], ["a b c d e"]) == pytest.approx(expected)


def test_rouge_by_hand():
    """Three of four words shared, two of three bigrams: F1 0.75 and 2/3."""
    scores = rouge(["one two three nine"], ["one two three four"])
    assert scores["rouge1"] == [pytest.approx(75)] and scores["rouge2"] == [pytest.approx(200 / 3)]


def test_self_bleu_is_100_for_equal_replies_seeded_and_follows_sacrebleu():
    assert self_bleu(["a b c d e"] * 5) == pytest.approx(100)
    replies = ["a b c d", "a b x y", "q r s t"]
    metric = sacrebleu.BLEU(effective_order=True)
    by_hand = sum(metric.sentence_score(r, replies[:i] + replies[i + 1 :]).score for i, r in enumerate(replies)) / 3
    assert self_bleu(replies) == pytest.approx(by_hand)
    many = [f"w{i} w{i % 7} w{i % 3} x" for i in range(60)]
    assert self_bleu(many, sample=10, seed=3) == self_bleu(many, sample=10, seed=3)


def test_bootstrap_interval_holds_the_mean_and_needs_two_groups():
    values = torch.arange(40.0).numpy()
    low, high = bootstrap_interval([[i] for i in range(40)], lambda chosen: values[chosen].mean())
    assert low < 19.5 < high and high - low < 10
    assert bootstrap_interval([[0, 1]], lambda chosen: 0.0) is None


def test_perplexity_of_a_uniform_model_is_its_vocabulary_and_empty_replies_count_nothing(tmp_path):
    tokenizer = train_decoder_tokenizer(["a b c d"] * 4, 300)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=32, bos_token_id=0, eos_token_id=0))
    torch.nn.init.zeros_(model.transformer.wte.weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scorer = PerplexityModel(str(tmp_path), DialogueTemplate(turn_start=" ", turn_end=""), torch.device("cpu"))
    nats, tokens = scorer.negative_log_likelihoods([("a b",), ("c",), ("d",)], ["c d", "", "a"])
    assert tokens[1] == 0 and nats[1] == 0
    assert perplexity(nats, tokens) == pytest.approx(len(tokenizer), rel=1e-4)
    assert perplexity([0.0], [0]) is None


def test_perplexity_weighs_every_token_the_same():
    assert perplexity([3 * math.log(2), math.log(8)], [3, 1]) == pytest.approx(2 ** (6 / 4))


def scored_row(context: str, target: str, predicted: str, probability: float, response: str = "a b c") -> dict:
    return {
        "context": [context], "target": {"attitude": target}, "response": response, "reference": None, "nli": 0.5,
        "predicted": {"attitude": predicted, "languagestyle": "plain"},
        "probabilities": {"attitude": {target: probability}},
    }  # fmt: skip


def test_accuracy_counts_only_the_attributes_that_a_target_names():
    rows = [scored_row("x", "optimistic", "optimistic", 0.9), scored_row("y", "optimistic", "pessimistic", 0.2, "")]
    m = measure(rows, load_schema(), None)
    assert m["attributes"]["attitude"] == {"accuracy": 0.5, "probability": pytest.approx(0.55)}
    assert m["attributes"]["languagestyle"] == {"accuracy": None, "probability": None}
    assert m["accuracy_mean"] == m["accuracy_joint"] == 0.5
    assert m["empty"] == 0.5 and m["length"] == 1.5 and m["n"] == 2
    assert m["ppl"] is None and m["bleu"] is None and m["rougeL"] is None


def test_results_and_table_show_every_target_and_warning():
    rows = [scored_row("x", "optimistic", "optimistic", 0.9), scored_row("x", "pessimistic", "optimistic", 0.1)]
    judges = {"attitude": {"accuracy": 0.7, "base": "scratch", "hash": "0"}}
    record = results(rows, load_schema(), None, baseline=None, evaluators=judges, warnings=["careful"], run={})
    assert list(record["by_target"]) == ["optimistic", "pessimistic"]
    assert record["by_target"]["optimistic"]["accuracy_mean"] == 1 and record["overall"]["accuracy_mean"] == 0.5
    text = table(record)
    assert "careful" in text and "0.700 (from scratch)" in text and "overall" in text


def test_audit_warns_of_a_model_that_is_fooled():
    good = {"real": 0.8, "random": 0.2, "repeated": 0.1, "gibberish": 0.0}
    assert audit_warnings(good) == []
    assert len(audit_warnings(good | {"gibberish": 0.9, "random": 0.7})) == 2
