"""Runs side by side, on the requests that all of them answered. ``python -m scoring.compare outs/a outs/b``

An argument is a run's folder (its generations.jsonl) or a scored generations file, ``outs/a/generations/none.jsonl``. The
first is the one that the others are compared with: differences come with paired bootstrap intervals over contexts.
"""

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.entry import Parser, run_main, seed_of
from common.errors import InputError
from common.files import replacing
from common.jsonl import read_json
from common.schema import Schema, load_schema
from scoring.bootstrap import Bootstrap, percentiles
from scoring.columns import Columns
from scoring.metrics import METRICS, arrow, excludes_zero, written
from scoring.results import measure, sums_and_statistics
from scoring.score import score_file
from scoring.stale import differ, mixed, stamp_of
from scoring.systems import system_at

SHOWN = tuple(key for key in METRICS if key not in ("bleu1", "bleu2", "bleu3", "rouge1", "rouge2"))


def common_requests(systems: list[Columns]) -> list[Columns]:
    """The systems' replies to the requests that all of them answered, in the first one's order.

    Raises:
        InputError: where there is no such request.
    """
    shared = set.intersection(*(set(columns.request.tolist()) for columns in systems))
    if not shared:
        raise InputError("the runs have no request (context and target) in common")
    order = [request for request in dict.fromkeys(systems[0].request.tolist()) if request in shared]
    result = []
    for columns in systems:
        place: dict[int, int] = {}
        for row, request in enumerate(columns.request.tolist()):
            place.setdefault(request, row)
        result.append(columns.take(np.array([place[request] for request in order])))
    return result


def difference(a: Columns, b: Columns, seed: int) -> dict[str, dict | None]:
    """b - a of every metric, with the 95 % interval of the paired bootstrap where the metric has one.

    Args:
        a, b: replies to the same requests in the same order; contexts are resampled, the same ones for both.
    """
    bootstrap = Bootstrap(a.context.tolist(), seed=seed)
    sides = []
    for columns in (a, b):
        values, statistics = sums_and_statistics(columns)
        drawn = bootstrap.resampled_sums(values) if bootstrap.n_groups > 1 else None
        sides.append((statistics, values.sum(axis=0), drawn))
    found: dict[str, dict | None] = {}
    for name in sides[0][0]:
        first, second = (float(statistics[name](total)) for statistics, total, _ in sides)
        if np.isnan(first) or np.isnan(second):
            found[name] = None
            continue
        draws = (
            None if sides[0][2] is None else sides[1][0][name](sides[1][2]) - sides[0][0][name](sides[0][2])
        )
        found[name] = {"value": second - first, "ci95": None if draws is None else percentiles(draws)}
    return found


def compare(paths: list[Path], schema: Schema, seed: int = 0) -> dict:
    """Everything that the tables and the report show.

    Returns:
        ``{"systems": [{"name", "overall": M, "by_target": {...}, "evaluators", "warnings"}], "requests", "warnings",
        "metrics", "differences": {metric: [None, {"value", "ci95"} | None, ...]}}``; differences are against the first.

    Raises:
        InputError: fewer than two systems, equal names, or no request in common.
    """
    places = [system_at(path) for path in paths]
    names = [place.name for place in places]
    if len(paths) < 2 or (len(set(names)) < len(names) and len(set(paths)) == len(paths)):
        raise InputError(f"name two or more runs with different names; found {names}")
    everything = [score_file(place.generations, schema) for place in places]
    shared = common_requests(everything)
    records = [read_json(place.results) or {} for place in places]
    systems, warnings = [], []
    for name, columns, kept, record in zip(names, everything, shared, records):
        if len(kept) < len(columns):
            warnings.append(
                f"{name}: {len(columns) - len(kept)} of {len(columns)} replies are to requests that not all runs answered, and left out"
            )
        parts = {
            target: measure(kept.take(np.flatnonzero(kept.target == n)), seed)
            for n, target in enumerate(kept.targets)
            if (kept.target == n).any()
        }
        systems.append(
            {
                "name": name,
                "overall": measure(kept, seed) | _of_all(record, whole=len(kept) == len(columns)),
                "by_target": parts,
                "evaluators": record.get("evaluators", {}),
                "warnings": record.get("warnings", []),
                "data": (record.get("run", {}).get("data") or {}).get("training"),
            }
        )
    warnings += different_evaluators(systems) + different_data(systems)
    for place, record in zip(places, records):
        if others := mixed(record, stamp_of(place.generations)):
            warnings.append(
                f"{place.name}: its replies were made with another {', '.join(others)} than its results name; score it again: python -m scoring.score"
            )
    against_first = [None, *(difference(shared[0], columns, seed) for columns in shared[1:])]
    differences = {key: [None, *(found.get(key) for found in against_first[1:])] for key in METRICS}
    for key in METRICS:  # metrics without sums: the difference alone
        for number, system in enumerate(systems[1:], 1):
            a, b = systems[0]["overall"].get(key), system["overall"].get(key)
            if differences[key][number] is None and a is not None and b is not None:
                differences[key][number] = {"value": b - a, "ci95": None}
    return {
        "systems": systems,
        "requests": len(shared[0]),
        "warnings": warnings,
        "metrics": list(METRICS),
        "differences": differences,
    }


def _of_all(record: dict, whole: bool) -> dict[str, float | None]:
    """MAUVE as it was measured when a system was scored, where all of its replies are compared."""
    overall = record.get("overall") or {}
    return {"mauve": overall["mauve"]} if whole and "mauve" in overall else {}


def different_evaluators(systems: list[dict]) -> list[str]:
    """Warnings where two systems were not scored by the same evaluators."""
    found = []
    for name in sorted({name for system in systems for name in system["evaluators"]}):
        hashes = {system["evaluators"].get(name, {}).get("hash") for system in systems}
        if len(hashes) > 1:
            found.append(
                f"the {name} evaluators differ between the runs; score one with the other's: python -m scoring.score FILE --run RUN"
            )
    return found


def different_data(systems: list[dict]) -> list[str]:
    """A warning where systems were trained on other data than the first."""
    first, *others = systems
    names = [system["name"] for system in others if differ(first["data"], system["data"])]
    return [f"trained on other data than {first['name']}: {', '.join(names)}"] if names else []


# --- output ----------------------------------------------------------------------------------------------------------


def table(comparison: dict) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, metric by metric: value with interval, then the difference from the first, ``*`` where it excludes 0."""
    first, *others = [system["name"] for system in comparison["systems"]]
    heading = ["metric", first] + [cell for name in others for cell in (name, f"{name} - {first}")]
    rows = []
    for key in SHOWN:
        if all(system["overall"].get(key) is None for system in comparison["systems"]):
            continue
        row = [METRICS[key].title + arrow(key)]
        for number, system in enumerate(comparison["systems"]):
            interval = system["overall"]["ci95"].get(key)
            row.append(
                written(key, system["overall"].get(key))
                + (f" [{written(key, interval[0])}, {written(key, interval[1])}]" if interval else "")
            )
            if number:
                row.append(difference_cell(key, comparison["differences"][key][number]))
        rows.append(row)
    return heading, rows


def difference_cell(key: str, entry: dict | None) -> str:
    """``+0.120 [0.080, 0.160]*``."""
    if entry is None:
        return "-"
    form = "z" + (METRICS[key].form if METRICS[key].form != "d" else ".0f")
    interval = f" [{entry['ci95'][0]:{form}}, {entry['ci95'][1]:{form}}]" if entry["ci95"] else ""
    return f"{entry['value']:+{form}}{interval}{'*' if excludes_zero(key, entry['ci95']) else ''}"


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that lines up on the terminal."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [heading, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines
    )


LATEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
LATEX |= {"\\": r"\textbackslash{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def latex(heading: list[str], rows: list[list[str]], requests: int, warnings: list[str]) -> str:
    """A booktabs table, under comments with the reasons to doubt its numbers."""

    def line(cells: Iterable[str]) -> str:
        return (
            " & ".join("".join(LATEX.get(character, character) for character in cell) for cell in cells)
            + r" \\"
        )

    body = "\n".join(line(row) for row in rows)
    caption = f"Replies to the same {requests} requests, with 95\\,\\% bootstrap intervals over contexts; * marks a paired difference whose interval excludes 0."
    return "".join(f"% warning: {' '.join(warning.split())}\n" for warning in warnings) + (
        "\\begin{table}\n\\centering\n\\small\n\\begin{tabular}{l" + "r" * (len(heading) - 1) + "}\n\\toprule\n" + line(heading) + "\n\\midrule\n"
        + body + "\n\\bottomrule\n\\end{tabular}\n\\caption{" + caption + "}\n\\end{table}\n"
    )  # fmt: skip


def write_csv(path: Path, comparison: dict) -> None:
    """One row per system and metric: value, interval, difference from the first, its interval; full precision."""
    with replacing(path, newline="") as out:
        writer = csv.writer(out)
        writer.writerow(
            [
                "system",
                "metric",
                "better",
                "value",
                "low",
                "high",
                "difference",
                "difference_low",
                "difference_high",
            ]
        )
        for number, system in enumerate(comparison["systems"]):
            for key in METRICS:
                low, high = system["overall"]["ci95"].get(key, (None, None))
                entry = comparison["differences"][key][number] or {"value": None, "ci95": None}
                ends = entry["ci95"] or (None, None)
                writer.writerow(
                    [
                        system["name"],
                        key,
                        METRICS[key].better,
                        system["overall"].get(key),
                        low,
                        high,
                        entry["value"],
                        *ends,
                    ]
                )


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "systems",
        nargs="+",
        type=Path,
        help="run folders or scored generations files; the first is compared with",
    )
    options.add_argument("--schema", help="schema file (default: the repository's schema.py)")
    options.add_argument("--csv", type=Path, help="write every number to this file, and no warning")
    options.add_argument(
        "--latex",
        type=Path,
        help="write the table as LaTeX (booktabs) to this file, with the warnings as comments",
    )
    options.add_argument("--html", type=Path, help="write a self-contained report to this file")
    options.add_argument("--seed", type=seed_of, default=0, help="of the resamples (default: 0)")
    return options


def main(argv: list[str] | None = None) -> int:
    """Compare and print; returns the exit status."""
    options = parser().parse_args(argv)
    comparison = compare(options.systems, load_schema(options.schema), options.seed)
    heading, rows = table(comparison)
    print(
        f"{comparison['requests']} requests that all runs answered; 95 % intervals over contexts; * the difference's interval excludes 0\n"
    )
    print(markdown(heading, rows))
    for system in comparison["systems"]:
        evaluators = ", ".join(
            f"{name} {written('accuracy_mean', one.get('accuracy'))}"
            for name, one in system["evaluators"].items()
        )
        print(f"{system['name']}: scored by evaluators with dev accuracy {evaluators or 'unknown'}")
    own = [
        f"{system['name']}: {warning}" for system in comparison["systems"] for warning in system["warnings"]
    ]
    for warning in own:
        print(f"warning: {warning}")
    for warning in comparison["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if options.csv:
        write_csv(options.csv, comparison)
    if options.latex:
        with replacing(options.latex) as out:
            out.write(latex(heading, rows, comparison["requests"], comparison["warnings"] + own))
    if options.html:
        from scoring.report.comparison_report import write_comparison_report

        write_comparison_report(comparison, options.html)
    for path in filter(None, (options.csv, options.latex, options.html)):
        print(f"-> {path}")
    return 0


if __name__ == "__main__":
    run_main(main)
