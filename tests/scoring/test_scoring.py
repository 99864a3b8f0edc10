"""Metrics against hand-worked examples and against their definitions."""

import json
import math
import re

import numpy as np
import pytest
import sacrebleu
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from common.schema import load_schema
from dataset.encoding import DialogueTemplate
from dataset.tokenizers import train_decoder_tokenizer
from scoring.audit import audit_warnings
from scoring.bootstrap import Bootstrap, mean_of
from scoring.columns import Columns, Gatherer
from scoring.evaluators import other_schema
from scoring.generations import checked
from scoring.metrics import METRICS, OF_REPLIES, OF_REPLY
from scoring.perplexity import PerplexityModel
from scoring.results import measure, results
from scoring.samples import samples, spread
from scoring.table import table
from scoring.text_metrics import (
    bleu_statistics,
    corpus_bleu,
    distinct,
    has_repetition,
    rouge,
    self_bleu,
    sentence_bleu,
)


def test_distinct_counts_different_ngrams_over_all_of_them():
    assert distinct(["a b a", "b a"], 1) == 2 / 5
    assert distinct(["a b a", "b a"], 2) == 2 / 3
    assert distinct(["a", ""], 2) is None


def test_repetition_is_a_4_gram_that_stands_twice():
    assert has_repetition("a b c d x a b c d")
    assert not has_repetition("a b c a b c")


def summed(replies, references):
    return np.sum([bleu_statistics(*pair) for pair in zip(replies, references)], axis=0)


def test_bleu_of_the_reference_itself_is_100_and_of_no_reference_none():
    sentence = "the cat sat on the mat"
    assert corpus_bleu(bleu_statistics(sentence, sentence)) == pytest.approx(100)
    assert corpus_bleu([0] * 10) is None and corpus_bleu(bleu_statistics("", sentence)) == 0


def test_bleu_by_hand():
    """Four words of five right in order: precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty."""
    statistics = bleu_statistics("a b c d x", "a b c d e")
    assert statistics == [4, 3, 2, 1, 5, 4, 3, 2, 5, 5]
    assert corpus_bleu(statistics) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert sentence_bleu(statistics, 1) == pytest.approx(80) and sentence_bleu(
        statistics, 2
    ) == pytest.approx(100 * (4 / 5 * 3 / 4) ** 0.5)


def test_bleu_follows_sacrebleu():
    replies = ["the cat sat on a mat", "no, it did not", "", "it rains", "a b c d e f g h"]
    references = [
        "the cat sat on the mat",
        "no it didn't do that",
        "something",
        "it rained all day",
        "a b c x e f g h i",
    ]
    assert corpus_bleu(summed(replies, references)) == pytest.approx(
        sacrebleu.corpus_bleu(replies, [references]).score
    )
    for n in (1, 2, 3, 4):
        metric = sacrebleu.BLEU(max_ngram_order=n, effective_order=True)
        for reply, reference in zip(replies, references):
            expected = metric.sentence_score(reply, [reference]).score
            assert sentence_bleu(bleu_statistics(reply, reference), n) == pytest.approx(expected), (n, reply)


def test_rouge_by_hand():
    """Three of four words shared, two of three bigrams: F1 0.75 and 2/3."""
    scores = rouge(["one two three nine"], ["one two three four"])
    assert scores["rouge1"] == [pytest.approx(75)] and scores["rouge2"] == [pytest.approx(200 / 3)]


def test_self_bleu_is_100_for_equal_replies_seeded_and_follows_sacrebleu():
    assert self_bleu(["a b c d e"] * 5) == pytest.approx(100)
    replies = ["a b c d", "a b x y", "q r s t"]
    metric = sacrebleu.BLEU(effective_order=True)
    by_hand = (
        sum(metric.sentence_score(r, replies[:i] + replies[i + 1 :]).score for i, r in enumerate(replies)) / 3
    )
    assert self_bleu(replies) == pytest.approx(by_hand)
    many = [f"w{i} w{i % 7} w{i % 3} x" for i in range(60)]
    assert self_bleu(many, sample=10, seed=3) == self_bleu(many, sample=10, seed=3)


def test_bootstrap_interval_holds_the_mean_and_needs_two_groups():
    values = np.stack([np.arange(40.0), np.ones(40)], axis=1)
    low, high = Bootstrap(list(range(40))).intervals(values, {"mean": mean_of(0, 1)})["mean"]
    assert low < 19.5 < high and high - low < 10
    assert Bootstrap([0, 0]).intervals(values[:2], {"mean": mean_of(0, 1)}) == {}


def test_bootstrap_draws_whole_groups_and_follows_numpy():
    """Ten copies of every reply in a group tell nothing new: the interval is that of the groups."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    one = np.stack([values, np.ones(30)], axis=1)
    ten = np.repeat(one, 10, axis=0)
    interval = Bootstrap(list(range(30)), seed=1).intervals(one, {"m": mean_of(0, 1)})["m"]
    assert Bootstrap(np.repeat(np.arange(30), 10).tolist(), seed=1).intervals(ten, {"m": mean_of(0, 1)})[
        "m"
    ] == pytest.approx(interval)
    by_hand = [np.mean(values[rng.integers(30, size=30)]) for _ in range(4000)]
    assert interval == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.05)


def test_bootstrap_of_a_statistic_without_value_in_a_resample_is_left_out():
    values = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert Bootstrap([0, 1, 2]).intervals(values, {"m": mean_of(0, 1)}) == {}


def test_perplexity_of_a_uniform_model_is_its_vocabulary_and_empty_replies_count_nothing(tmp_path):
    tokenizer = train_decoder_tokenizer(["a b c d"] * 4, 300)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=8,
            n_layer=1,
            n_head=1,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    torch.nn.init.zeros_(model.transformer.wte.weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scorer = PerplexityModel(
        str(tmp_path), DialogueTemplate(turn_start=" ", turn_end=""), torch.device("cpu")
    )
    nats, tokens = scorer.negative_log_likelihoods([("a b",), ("c",), ("d",)], ["c d", "", "a"])
    assert tokens[1] == 0 and nats[1] == 0
    assert math.exp(sum(nats) / sum(tokens)) == pytest.approx(len(tokenizer), rel=1e-4)


def scored_row(
    context: str, target: str, predicted: str, probability: float, response: str = "a b c"
) -> dict:
    return {
        "context": [context], "target": {"attitude": target}, "response": response, "reference": None, "nli": 0.5,
        "predicted": {"attitude": predicted, "languagestyle": "plain"},
        "probabilities": {"attitude": {target: probability}},
    }  # fmt: skip


def columns(rows) -> Columns:
    gatherer, schema = Gatherer(load_schema()), load_schema()
    gatherer.add([checked(row, schema, "rows", number) for number, row in enumerate(rows)])
    return gatherer.finish()


def test_perplexity_weighs_every_token_the_same_and_drops_nothing():
    rows = [
        scored_row("x", "optimistic", "optimistic", 0.9) | {"nats": n, "tokens": t}
        for n, t in ((3 * math.log(2), 3), (math.log(8), 1), (0.0, 0))
    ]
    assert measure(columns(rows))["ppl"] == pytest.approx(2 ** (6 / 4))
    assert measure(columns([row | {"tokens": 0, "nats": 0.0} for row in rows]))["ppl"] is None


def test_accuracy_counts_only_the_attributes_that_a_target_names():
    rows = [
        scored_row("x", "optimistic", "optimistic", 0.9),
        scored_row("y", "optimistic", "pessimistic", 0.2, ""),
    ]
    m = measure(columns(rows))
    attitude, style = m["attributes"]["attitude"], m["attributes"]["languagestyle"]
    assert attitude["accuracy"] == 0.5 and attitude["probability"] == pytest.approx(0.55)
    assert attitude["confusion"] == {"labels": ["pessimistic", "optimistic"], "counts": [[0, 0], [1, 1]]}
    assert style["accuracy"] is None and style["confusion"]["counts"] == [[0, 0], [0, 0]]
    assert m["accuracy_mean"] == m["accuracy_joint"] == 0.5
    assert m["empty"] == 0.5 and m["length"] == 1.5 and m["n"] == 2
    assert m["ppl"] is None and m["bleu"] is None and m["rougeL"] is None


def test_results_and_table_show_every_target_and_warning():
    rows = [
        scored_row("x", "optimistic", "optimistic", 0.9),
        scored_row("x", "pessimistic", "optimistic", 0.1),
    ]
    evaluators = {"attitude": {"accuracy": 0.7, "base": "scratch", "hash": "0"}}
    record = results(columns(rows), baseline=None, evaluators=evaluators, warnings=["careful"], run={})
    assert list(record["by_target"]) == ["optimistic", "pessimistic"]
    assert (
        record["by_target"]["optimistic"]["accuracy_mean"] == 1 and record["overall"]["accuracy_mean"] == 0.5
    )
    text = table(record, "results.json", 300)
    assert "careful" in text and "0.700 (from scratch)" in text and "overall" in text
    assert "\noptimistic " in text and "\npessimistic " in text and "results.json" not in text


def run_of_combinations(count, algorithm="ode"):
    """Results of a run with control and a baseline, of which neither has perplexity or BLEU."""
    record = results(
        columns([scored_row("x", "optimistic", "optimistic", 0.9)]),
        baseline=None,
        evaluators={name: {"accuracy": 0.8, "base": "tiny"} for name in ("attitude", "nli")},
        warnings=[],
        run={"config": {"generation": {"algorithm": algorithm}}},
    )
    m = record["overall"]
    return record | {"baseline": m, "by_target": {f"aspect{number}": m for number in range(count)}}


def test_the_table_leaves_out_what_has_no_value_and_keeps_to_the_width():
    text = table(run_of_combinations(8), "outs/r/report.html", 120)
    lines = text.splitlines()
    assert not any(name in text for name in ("perplexity", "BLEU↑", "ROUGE", "MAUVE", "languagestyle"))
    assert " -" not in "".join(lines[3:13])  # no cell without a number
    assert [line.split("  ")[0] for line in lines[3:13]] == [
        *(f"aspect{number}" for number in range(8)),
        "with control",
        "without control",
    ]
    assert "evaluators' own dev accuracy: attitude 0.800  nli 0.800  (all from tiny)" in lines
    narrow = table(run_of_combinations(8), "outs/r/report.html", 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "joint↑" in narrow and "coherence↑" in narrow and "empty↓" not in narrow
    assert "the whole table: outs/r/report.html" in narrow.splitlines()
    assert re.search(r"^not shown here: .*length, empty", narrow, re.MULTILINE | re.DOTALL)
    wide = table(run_of_combinations(8), "outs/r/report.html", 300)
    assert "empty↓" in wide and "not shown here" not in wide


def test_many_combinations_give_only_the_overall_rows():
    for count, width in ((9, 300), (8, 40)):  # the second: no room beside their names
        record = run_of_combinations(count)
        record["by_target"] = {f"{name}+lyrical+critical": m for name, m in record["by_target"].items()}
        text = table(record, "outs/r/report.html", width)
        assert "\nwith control " in text and "\nwithout control " in text and "+lyrical" not in text
        assert (
            f"not shown here: the {count} combinations" in text and "whole table: outs/r/report.html" in text
        )
    alone = run_of_combinations(2, "none") | {"baseline": None}
    assert "\nwithout control " in table(alone, "x") and "\nwith control " not in table(alone, "x")


def test_samples_are_spread_over_targets_and_contexts(tmp_path):
    """Every nth row of a file with all combinations of every context is of one combination."""
    targets = [f"t{number % 8}" for number in range(128)]
    assert [targets[number] for number in spread(targets, 4)] == ["t0", "t2", "t5", "t7"]
    assert [number // 8 for number in spread(targets, 4)] == [0, 5, 10, 15]
    assert spread([], 4) == [] and spread(["a", "a"], 4) == [0, 1] and len(spread(targets[:3], 4)) == 3
    rows = [
        scored_row("first turn " + "long " * 40, aspect, aspect, 0.9, f"a reply\n\x1b[31m of {aspect}")
        for aspect in ("optimistic", "pessimistic") * 3
    ]
    path = tmp_path / "control.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = samples(path, 80).splitlines()
    assert lines[0] == f"4 of 6 replies, all in {path}:" and len(lines) == 13
    assert lines[1:4] == ["  optimistic", lines[2], "    a reply [31m of optimistic"]
    assert lines[2].startswith("    > first turn long") and lines[2].endswith("…") and len(lines[2]) <= 80


def test_empty_replies_and_few_contexts_are_warnings_of_the_results():
    def record(contexts, responses):
        rows = [
            scored_row(f"c{i % contexts}", "optimistic", "optimistic", 0.9, text)
            for i, text in enumerate(responses)
        ]
        return results(columns(rows), baseline=None, evaluators={}, warnings=["careful"], run={})

    found = record(9, ["a b", " ", ""] * 6)
    assert found["warnings"] == [
        "careful",
        "12 of 18 replies are empty",
        "intervals over 9 contexts say little",
    ]
    assert "warning: 12 of 18 replies are empty" in table(found, "results.json")
    assert (
        record(10, ["a b"] * 20)["warnings"] == record(1, ["a b"] * 3)["warnings"] == ["careful"]
    )  # one context has no interval


def test_a_run_of_another_schema_is_not_told_to_train(tmp_path):
    """Without --schema the bundled attributes' evaluators were asked for in a run that has others."""
    missing = tmp_path / "classifier" / "mood"
    assert other_schema(missing) == ""
    (tmp_path / "classifier" / "formality").mkdir(parents=True)
    (tmp_path / "classifier" / "formality" / "config.json").write_text("{}")
    assert other_schema(missing) == "the run has formality: name its schema (--schema my_schema.py), or "
    assert other_schema(tmp_path / "nli") == ""


def test_audit_warns_of_a_model_that_is_fooled():
    good = {"real": 0.8, "random": 0.2, "repeated": 0.1, "gibberish": 0.0}
    assert audit_warnings(good) == []
    apart, fooled = audit_warnings(good | {"repeated": 0.7, "gibberish": 0.9, "random": 0.7})
    assert "under 0.25 apart" in apart
    assert fooled.endswith("(repeated 0.70, gibberish 0.90; real ones 0.80)")  # one line, not one for each


def test_every_metric_is_measured_and_described():
    """A text metric is an entry of `METRICS`; columns, means, intervals and results follow from it."""
    rows = [scored_row(str(i), "optimistic", "optimistic", 0.9, "a b a b") for i in range(3)]
    m = measure(columns(rows))
    assert set(METRICS) <= set(m)
    assert {"repetition", "length", "empty"} <= set(OF_REPLY) <= set(m["ci95"])
    assert {"distinct1", "distinct2", "distinct3", "self_bleu"} <= set(OF_REPLIES)
    assert not set(OF_REPLIES) & set(m["ci95"])
    assert (m["length"], m["repetition"], m["empty"], m["distinct1"]) == (4.0, 0.0, 0.0, 2 / 12)


def test_a_metric_that_does_not_apply_leaves_a_reply_out(monkeypatch):
    monkeypatch.setitem(
        OF_REPLY, "length", lambda row: len(row["response"]) if row["context"] != ["0"] else None
    )
    rows = [scored_row(str(i), "optimistic", "optimistic", 0.9, "a" * (i + 1)) for i in range(3)]
    assert measure(columns(rows))["length"] == 2.5
