"""From per-reply values to the numbers of ``results.json``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dataset.words import unspaced
from scoring.bootstrap import FEW_CONTEXTS, Bootstrap, mean_of
from scoring.columns import MEANS, Columns
from scoring.metrics import OF_REPLIES
from scoring.text_metrics import BLEU_STATISTICS, TOKENIZERS, corpus_bleu

if TYPE_CHECKING:  # it brings torch, which sums do not need
    from scoring.mauve import Mauve

FORMAT = 1
COHERENCE_MARGIN = 0.05  # what replies must have over random ones to count as better
Statistic = Callable[[np.ndarray], np.ndarray]  # sums [..., M] -> [...]


def sums_and_statistics(columns: Columns) -> tuple[np.ndarray, dict[str, Statistic]]:
    """Every metric that is a function of sums over replies, as one: what to add up, and what to make of it.

    Returns:
        (values [N, M'] without NaN, name -> statistic). Means over the replies they apply to, perplexity, corpus BLEU.
    """
    width = len(columns.names)
    values = np.empty((len(columns), 2 * width))  # filled in place: of a million replies every copy counts
    values[:, width:] = ~np.isnan(columns.values)
    values[:, :width] = 0.0
    np.copyto(values[:, :width], columns.values, where=values[:, width:] != 0)

    def at(name: str) -> int:
        return columns.names.index(name)

    def bleu(sums: np.ndarray) -> np.ndarray:
        first = at("bleu_statistic0")
        rows = np.atleast_2d(sums)[:, first : first + BLEU_STATISTICS]
        found = [corpus_bleu(row) for row in rows]
        return np.array([np.nan if value is None else value for value in found]).reshape(sums.shape[:-1])

    averaged = [*MEANS, *(name for name in columns.names if "." in name)]
    statistics: dict[str, Statistic] = {name: mean_of(at(name), width + at(name)) for name in averaged}
    nats_per_token = mean_of(at("nats"), at("tokens"))
    statistics["ppl"] = lambda sums: np.exp(nats_per_token(sums))
    statistics["bleu"] = bleu
    return values, statistics


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def measure(columns: Columns, seed: int = 0) -> dict:
    """One M of the results contract: all metrics over some replies, with intervals over contexts."""
    values, statistics = sums_and_statistics(columns)
    total = values.sum(axis=0)
    found = {name: _number(statistic(total)) for name, statistic in statistics.items()}
    attributes = {
        attribute.name: {
            "accuracy": found.pop(f"{attribute.name}.accuracy"),
            "probability": found.pop(f"{attribute.name}.probability"),
            "confusion": {
                "labels": list(attribute.aspects),
                "counts": confusion(columns.wanted[:, k], columns.predicted[:, k], len(attribute.aspects)),
            },
        }
        for k, attribute in enumerate(columns.schema.attributes)
    }
    result = {"attributes": attributes, **found}
    result |= {name: metric(columns.replies, seed) for name, metric in OF_REPLIES.items()}
    result["mauve"] = None  # of all replies together and where it is asked for: `results`
    result["n"] = len(columns)
    result["ci95"] = (
        Bootstrap(columns.context.tolist(), seed=seed).intervals(values, statistics) if len(columns) else {}
    )
    return result


def confusion(wanted: np.ndarray, predicted: np.ndarray, size: int) -> list[list[int]]:
    """How often which aspect was predicted (columns) where which was wanted (rows)."""
    counts = np.zeros((size, size), dtype=int)
    scored = (wanted >= 0) & (predicted >= 0)
    np.add.at(counts, (wanted[scored], predicted[scored]), 1)
    return counts.tolist()


def floor_warnings(coherence: float | None, audit: dict[str, float] | None) -> list[str]:
    """A warning where replies score no better than replies to something else."""
    if coherence is None or not audit or coherence > audit["random"] + COHERENCE_MARGIN:
        return []
    scores = f"these replies score {coherence:.2f}, true replies to something else {audit['random']:.2f}"
    return [
        f"coherence: {scores}; not more than {COHERENCE_MARGIN} above those, so no better than random ones"
    ]


def control_warnings(overall: dict, baseline: dict | None) -> list[str]:
    """A warning where replies with control have no higher joint accuracy than the interval of those without it reaches."""
    joint, interval = overall["accuracy_joint"], ((baseline or {}).get("ci95") or {}).get("accuracy_joint")
    if joint is None or not interval or interval[1] is None or joint > interval[1]:
        return []
    return [
        f"control: joint accuracy {joint:.3f} is not over {interval[1]:.3f}, the upper end of the 95 % interval without control; control may do nothing"
    ]


def sample_warnings(columns: Columns, overall: dict) -> list[str]:
    """Warnings of empty replies, and of intervals over few contexts."""
    empty, contexts = int(columns.column("empty").sum()), len(set(columns.context.tolist()))
    found = [f"{empty} of {len(columns)} replies are empty"] if empty else []
    return found + (
        [f"intervals over {contexts} contexts say little"]
        if overall["ci95"] and contexts < FEW_CONTEXTS
        else []
    )


def tokenisation(columns: Columns) -> dict:
    """What counted as a word in the numbers of these replies.

    Returns:
        ``{"words", "rouge"}``: a sentence each, ``"bleu"``: sacrebleu's tokenizer -> replies with a reference, and
        ``"unspaced"``: replies in scripts without spaces between words.
    """
    used = columns.column("tokenizer")
    numbers, counts = np.unique(used[~np.isnan(used)].astype(int), return_counts=True)
    without = sum(map(unspaced, columns.replies))
    both = "words between spaces; of scripts without spaces, characters (Unicode word breaks)"
    return {
        "words": both if without else "words between spaces",
        "rouge": "runs of letters, marks and digits, English ones stemmed; of scripts without spaces, characters",
        "bleu": {TOKENIZERS[number]: int(count) for number, count in zip(numbers, counts)},
        "unspaced": without,
    }


def language_warnings(columns: Columns) -> list[str]:
    """What numbers mean less, or nothing, because of the language of the replies."""
    how, found = tokenisation(columns), []
    if how["unspaced"]:
        found.append(
            f"words: {how['unspaced']} of {len(columns)} replies are in a script without spaces; length, distinct-n, repetition and ROUGE "
            "count characters there, so compare them with such replies only"
        )
    if how["bleu"].get("char"):
        found.append(
            f"BLEU: {how['bleu']['char']} replies are compared by characters, higher than by words; for Japanese words: pip install 'sacrebleu[ja]'"
        )
    if len(how["bleu"]) > 1:
        found.append(
            f"BLEU adds up counts of several tokenisations ({', '.join(f'{name} {count}' for name, count in how['bleu'].items())}); it means little"
        )
    if wordless := int(np.nansum(columns.column("wordless"))):
        found.append(f"ROUGE: {wordless} references have no letter; their replies count as 0")
    return found


def results(
    columns: Columns,
    *,
    baseline: dict | None,
    evaluators: dict[str, dict],
    warnings: list[str],
    run: dict,
    seed: int = 0,
    references: dict | None = None,
    mauve: "Mauve | None" = None,
) -> dict:
    """The whole of ``results.json``.

    Args:
        baseline: the overall M of the uncontrolled replies to the same requests, or None.
        references: the overall M of real replies to the same requests by the same evaluators, or None.
        evaluators: name -> accuracy, base, hash, and what their training measured on dev.
        run: command, seed, configuration, versions, revision, device, nfe and seconds per stage.
        mauve: of all replies against people's, where it was asked for; the overall M then has it.
    """
    parts = (  # one at a time
        (name, columns.take(np.flatnonzero(columns.target == number)))
        for number, name in enumerate(columns.targets)
    )
    overall = measure(columns, seed)
    if mauve is not None:
        overall["mauve"], run = mauve.value, run | {"mauve": mauve.record()}
        warnings = warnings + mauve.warnings()
    return {
        "format": FORMAT,
        "overall": overall,
        "by_target": {name: measure(part, seed) for name, part in parts if len(part)},
        "baseline": baseline,
        "references": references,
        "evaluators": evaluators,
        "tokenisation": tokenisation(columns),
        "warnings": warnings
        + sample_warnings(columns, overall)
        + language_warnings(columns)
        + control_warnings(overall, baseline)
        + floor_warnings(overall["nli"], evaluators.get("nli", {}).get("audit")),
        "run": run | {"requests": columns.summary()},
    }
