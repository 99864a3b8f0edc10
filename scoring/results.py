"""From scored replies to the numbers of ``results.json``."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from schema import Schema, target_name
from scoring.perplexity import perplexity
from scoring.text_metrics import bootstrap_interval, corpus_bleu, distinct, has_repetition, rouge, self_bleu

FORMAT = 1


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def per_reply(rows: list[dict]) -> dict[str, list[float | None]]:
    """Every metric that is a mean over replies, one value per reply; None where it does not apply to a reply."""
    columns: dict[str, list[float | None]] = defaultdict(list)
    for row in rows:
        named = row["target"]
        scored = bool(row.get("predicted")) and bool(named)
        right = [row["predicted"][name] == aspect for name, aspect in named.items()] if scored else []
        chances = [row["probabilities"][name][aspect] for name, aspect in named.items()] if scored else []
        columns["accuracy_mean"].append(float(np.mean(right)) if scored else None)
        columns["accuracy_joint"].append(float(all(right)) if scored else None)
        columns["probability_mean"].append(float(np.mean(chances)) if scored else None)
        columns["nli"].append(row.get("nli"))
        columns["repetition"].append(float(has_repetition(row["response"])))
        columns["length"].append(float(len(row["response"].split())))
        columns["empty"].append(float(not row["response"].strip()))
    with_reference = [i for i, row in enumerate(rows) if row.get("reference")]
    scores = rouge([rows[i]["response"] for i in with_reference], [rows[i]["reference"] for i in with_reference])
    for name, values in scores.items():
        columns[name] = [None] * len(rows)
        for i, value in zip(with_reference, values):
            columns[name][i] = value
    return columns


def measure(rows: list[dict], schema: Schema, likelihoods: tuple[list[float], list[int]] | None, seed: int = 0) -> dict:
    """One M of the results contract: all metrics over some replies, with intervals over contexts.

    Args:
        rows: scored generations.
        likelihoods: nats and tokens per reply (`scoring.perplexity`), or None where no model is named.
    """
    columns, replies = per_reply(rows), [row["response"] for row in rows]
    attributes = {}
    for name in schema.names:
        named = [row for row in rows if name in row["target"] and row.get("predicted")]
        attributes[name] = {
            "accuracy": _mean(float(row["predicted"][name] == row["target"][name]) for row in named),
            "probability": _mean(row["probabilities"][name][row["target"][name]] for row in named),
        }
    referenced = [row for row in rows if row.get("reference")]
    result = {"attributes": attributes}
    result |= {name: _mean(columns[name]) for name in ("accuracy_mean", "accuracy_joint", "probability_mean", "nli")}
    result["ppl"] = perplexity(*likelihoods) if likelihoods else None
    result["bleu"] = corpus_bleu([row["response"] for row in referenced], [row["reference"] for row in referenced])
    result |= {name: _mean(columns[name]) for name in ("rouge1", "rouge2", "rougeL")}
    result |= {f"distinct{n}": distinct(replies, n) for n in (1, 2, 3)}
    result["self_bleu"] = self_bleu(replies, seed=seed)
    result |= {name: _mean(columns[name]) for name in ("repetition", "length", "empty")}
    result["n"] = len(rows)
    result["ci95"] = _intervals(rows, columns, likelihoods, seed)
    return result


def _intervals(rows: list[dict], columns: dict[str, list[float | None]], likelihoods, seed: int) -> dict[str, list[float]]:
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[tuple(row["context"])].append(index)
    intervals = {}
    for name, values in columns.items():
        known = np.array([np.nan if value is None else value for value in values], dtype=float)
        if not np.isnan(known).any():
            interval = bootstrap_interval(list(groups.values()), lambda chosen: float(known[chosen].mean()), seed=seed)
            if interval:
                intervals[name] = interval
    if likelihoods and sum(likelihoods[1]):
        nats, tokens = (np.asarray(values, dtype=float) for values in likelihoods)
        interval = bootstrap_interval(
            list(groups.values()), lambda chosen: float(np.exp(nats[chosen].sum() / max(1.0, tokens[chosen].sum()))), seed=seed
        )
        if interval:
            intervals["ppl"] = interval
    return intervals


def results(
    rows: list[dict],
    schema: Schema,
    likelihoods: tuple[list[float], list[int]] | None,
    *,
    baseline: dict | None,
    evaluators: dict[str, dict],
    warnings: list[str],
    run: dict,
    seed: int = 0,
) -> dict:
    """The whole of ``results.json``.

    Args:
        rows: scored generations in input order.
        likelihoods: as for `measure`, for all rows.
        baseline: the overall M of the uncontrolled replies to the same contexts, or None.
        evaluators: name -> accuracy, base and hash.
        run: command, seed, configuration, versions, revision, device, nfe and seconds per stage.
    """
    by_target: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_target[target_name(row["target"])].append(index)

    def part(indices: list[int]) -> dict:
        chosen = None if likelihoods is None else tuple([values[i] for i in indices] for values in likelihoods)
        return measure([rows[i] for i in indices], schema, chosen, seed)

    return {
        "format": FORMAT,
        "overall": measure(rows, schema, likelihoods, seed),
        "by_target": {name: part(indices) for name, indices in by_target.items()},
        "baseline": baseline,
        "evaluators": evaluators,
        "warnings": warnings,
        "run": run,
    }
