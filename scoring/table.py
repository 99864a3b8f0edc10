"""Results as a table on the terminal."""

from scoring.metrics import METRICS, arrow, written

COLUMNS = (
    "accuracy_mean",
    "accuracy_joint",
    "probability_mean",
    "nli",
    "ppl",
    "mauve",
    "bleu",
    "rougeL",
    "distinct1",
    "distinct2",
    "self_bleu",
    "repetition",
    "length",
    "empty",
    "n",
)
INTERVALS = ("accuracy_mean", "accuracy_joint", "probability_mean", "nli", "ppl", "bleu", "rougeL")


def columns_of(results: dict) -> list[str]:
    """The columns that these results fill: MAUVE only where it was asked for."""
    return [key for key in COLUMNS if key != "mauve" or results["overall"].get("mauve") is not None]


def headings(results: dict, attributes: list[str]) -> tuple[list[str], list[str]]:
    """Two lines of headings: names with the direction that is better, and below every number of an evaluator its accuracy."""
    evaluators = {name: one.get("accuracy") for name, one in results["evaluators"].items()}
    columns = columns_of(results)

    def own_accuracy(name: str) -> str:
        return f"({evaluators[name]:.2f})" if evaluators.get(name) is not None else ""

    first = (
        ["accuracy of"]
        + [f"{name}↑" for name in attributes]
        + [METRICS[key].title + arrow(key) for key in columns]
    )
    second = (
        ["(its evaluator's own, on dev)"]
        + [own_accuracy(name) for name in attributes]
        + [own_accuracy("nli") if key == "nli" else "" for key in columns]
    )
    return first, second


def row_of(name: str, m: dict, attributes: list[str], columns: list[str]) -> list[str]:
    """One line of the table from an M of the results."""
    return [
        name,
        *(written("accuracy_mean", m.get("attributes", {}).get(a, {}).get("accuracy")) for a in attributes),
        *(written(key, m.get(key)) for key in columns),
    ]


def table(results: dict) -> str:
    """The table of a run: control per combination and overall, the baseline, real replies, intervals, evaluators and warnings."""
    overall = results["overall"]
    attributes, columns = list(overall["attributes"]), columns_of(results)
    rows = [row_of(name, m, attributes, columns) for name, m in results["by_target"].items()] + [
        row_of("overall", overall, attributes, columns)
    ]
    if results["baseline"]:
        rows.append(row_of("no control", results["baseline"], attributes, columns))
    if results.get("references"):
        rows.append(row_of("real replies", results["references"], attributes, columns))
    lines = list(headings(results, attributes)) + rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    ]
    text.insert(2, "-" * max(len(line) for line in text))
    intervals = overall["ci95"]
    shown = [
        f"{METRICS[key].title} [{written(key, intervals[key][0])}, {written(key, intervals[key][1])}]"
        for key in INTERVALS
        if key in intervals
    ]
    if shown:
        text.append("95 % intervals over contexts, overall: " + "  ".join(shown))
    accuracies = [
        f"{name} {written('accuracy_mean', e.get('accuracy'))} (from {e.get('base')})"
        for name, e in results["evaluators"].items()
    ]
    text.append("evaluators' own dev accuracy: " + ("  ".join(accuracies) or "unknown"))
    return "\n".join(text + [f"warning: {warning}" for warning in results["warnings"]])
