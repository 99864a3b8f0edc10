"""Results as a table on the terminal, no wider than it."""

import shutil
from collections.abc import Callable
from pathlib import Path

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
LEAST_IMPORTANT = (  # in this order columns give way to the width; those that are not named here stay
    "empty",
    "length",
    "distinct1",
    "repetition",
    "self_bleu",
    "rougeL",
    "n",
    "probability_mean",
    "bleu",
    "mauve",
    "distinct2",
    "ppl",
)
INTERVALS = ("accuracy_mean", "accuracy_joint", "probability_mean", "nli", "ppl", "bleu", "rougeL")
WIDEST = 120  # characters
SHOWN_COMBINATIONS = 8  # with more of them, only the overall rows
GAP = "  "


def terminal_width() -> int:
    """Characters of a line: the terminal's, at most `WIDEST`; that many where the output is no terminal."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def overall_rows(results: dict) -> dict[str, dict]:
    """Name -> M of all replies together: of these, of those without control, of the real ones."""
    algorithm = results["run"].get("config", {}).get("generation", {}).get("algorithm")
    baseline, name = results["baseline"], "with control"
    if algorithm in (None, "none"):  # None: from elsewhere
        name = "overall" if algorithm is None or baseline else "without control"
    rows = {name: results["overall"]} | ({"without control": baseline} if baseline else {})
    return rows | ({"real replies": results["references"]} if results.get("references") else {})


def value_of(m: dict, column: str) -> float | None:
    """A metric of an M, or the accuracy of an attribute."""
    return m.get(column) if column in METRICS else m["attributes"].get(column, {}).get("accuracy")


def columns_of(results: dict) -> list[str]:
    """Attributes, then metrics: those that have a value in some row."""
    rows = [*overall_rows(results).values(), *results["by_target"].values()]
    return [
        column
        for column in (*results["overall"]["attributes"], *COLUMNS)
        if any(value_of(m, column) is not None for m in rows)
    ]


def grid(results: dict, rows: dict[str, dict], columns: list[str]) -> list[str]:
    """Lines: names with the direction that is better, below every number of an evaluator its accuracy, a rule, the rows."""
    evaluators = {name: one.get("accuracy") for name, one in results["evaluators"].items()}

    def own_accuracy(name: str) -> str:
        return f"({evaluators[name]:.2f})" if evaluators.get(name) is not None else ""

    cells = [
        ["accuracy of", *(METRICS[c].title + arrow(c) if c in METRICS else f"{c}↑" for c in columns)],
        ["(evaluator, on dev)", *("" if c in METRICS and c != "nli" else own_accuracy(c) for c in columns)],
    ]
    for name, m in rows.items():
        cells.append(
            [name, *(written(c if c in METRICS else "accuracy_mean", value_of(m, c)) for c in columns)]
        )
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        GAP.join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))])
        for name, *others in cells
    ]
    return [line.rstrip() for line in [*lines[:2], "-" * len(lines[0]), *lines[2:]]]


def fitting(
    draw: Callable[[list[str]], list[str]], columns: list[str], width: int
) -> tuple[list[str], list[str]]:
    """The lines that `draw` makes of so many columns as the width has room for, and the columns that gave way to it."""
    kept = set(columns)

    def drawn(some: set[str]) -> list[str]:
        return draw([column for column in columns if column in some])

    def fits(some: set[str]) -> bool:
        return max(map(len, drawn(some))) <= width

    order = [*LEAST_IMPORTANT, *[column for column in reversed(columns) if column not in METRICS]]
    for column in order:
        if not fits(kept):
            kept.discard(column)
    for column in reversed(order):  # a wide column that went last may have made room for a narrow one
        if column in columns and column not in kept and fits(kept | {column}):
            kept.add(column)
    return drawn(kept), [column for column in columns if column not in kept]


def table(results: dict, whole: Path | str, width: int | None = None) -> str:
    """The table of a run: overall with and without control and of real replies, intervals, evaluators and warnings.

    Where there are at most `SHOWN_COMBINATIONS` combinations, and their names leave room for the accuracies and coherence,
    a row for each stands above. Columns without any value are left out, and the least important ones where the width asks for it.

    Args:
        results: of ``results.json``.
        whole: the file that has all of it, which is named where something is left out.
        width: characters of a line; default: `terminal_width`.
    """
    width = terminal_width() if width is None else width
    columns, overall = columns_of(results), overall_rows(results)
    combinations = results["by_target"] if len(results["by_target"]) > 1 else {}
    rows = combinations | overall if len(combinations) <= SHOWN_COMBINATIONS else overall
    if rows is not overall:
        core = [column for column in columns if column not in LEAST_IMPORTANT]
        if max(map(len, grid(results, rows, core))) > width:
            rows = overall
    text, left_out = fitting(lambda kept: grid(results, rows, kept), columns, width)
    missing = [f"the {len(combinations)} combinations"] if combinations and rows is overall else []
    missing += [METRICS[column].title if column in METRICS else column for column in left_out]
    if missing:
        text += wrapped("not shown here:", [f"{name}," for name in missing[:-1]] + [missing[-1]], width, " ")
        text.append(f"the whole table: {whole}")
    intervals = results["overall"]["ci95"]
    shown = [
        f"{METRICS[key].title} [{written(key, intervals[key][0])}, {written(key, intervals[key][1])}]"
        for key in INTERVALS
        if intervals.get(key)
    ]
    if shown:
        text += wrapped("95 % intervals over contexts, overall:", shown, width)
    text += wrapped("evaluators' own dev accuracy:", own_accuracies(results["evaluators"]), width)
    return "\n".join(text + [f"warning: {warning}" for warning in results["warnings"]])


def own_accuracies(evaluators: dict[str, dict]) -> list[str]:
    """Every evaluator's name, dev accuracy and base; a base of all of them once, in the end."""
    bases = {record.get("base") for record in evaluators.values()}
    one = len(bases) == 1 and len(evaluators) > 1
    return [
        f"{name} {written('accuracy_mean', record.get('accuracy'))}"
        + ("" if one else f" (from {record.get('base')})")
        for name, record in evaluators.items()
    ] + ([f"(all from {bases.pop()})"] if one else []) or ["unknown"]


def wrapped(heading: str, items: list[str], width: int, gap: str = GAP) -> list[str]:
    """A heading and items in lines of at most so many characters, where no item is longer; an item is never broken."""
    lines, start = [heading], " "
    for item in items:
        if len(lines[-1]) + len(start) + len(item) > width:
            lines.append(GAP + item)
        else:
            lines[-1] += start + item
        start = gap
    return lines
