"""The report of several systems on the same requests, side by side."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.errors import InputError
from scoring.metrics import METRICS, arrow, excludes_zero, written
from scoring.report import plots
from scoring.report.page import render, write_page
from scoring.report.wording import TableCell, bracket, cell, evaluators_line, readable, share

SECTIONS = {
    "table": "Results and differences",
    "intervals": "Values and intervals",
    "combinations": "Joint accuracy per combination",
    "notes": "What the numbers mean",
}


@dataclass(frozen=True)
class Difference:
    """A difference against the first system: texts, and whether its interval excludes 0.

    `verdict` is "better", "worse" or "differs" (a metric without a better direction) where it does, else "".
    """

    value: str
    interval: str
    verdict: str


def write_comparison_report(comparison: dict, output: Path) -> Path:
    """Write the comparison of systems as one HTML file that needs nothing else.

    Args:
        comparison: ``{"systems": [{"name", "overall", "by_target", "evaluators", "warnings"}], "requests": n,
            "warnings": [...], "metrics": [keys], "differences": {metric: [None, {"value", "ci95"} or None, ...]}}``;
            differences are against the first system.
        output: the file.

    Returns:
        The file written.

    Raises:
        InputError: where there is no system to show, or an unknown metric is named.
    """
    if not comparison.get("systems"):
        raise InputError("a comparison needs at least one system")
    if unknown := [key for key in comparison["metrics"] if key not in METRICS]:
        raise InputError(f"unknown metrics {unknown}; there are {list(METRICS)}")
    return write_page(Path(output), render("comparison.html.jinja", **page_content(comparison)))


def page_content(comparison: dict) -> dict:
    """Everything that the template shows."""
    systems = comparison["systems"]
    keys = [
        key
        for key in comparison["metrics"]
        if any(system["overall"].get(key) is not None for system in systems)
    ]
    names = [system["name"] for system in systems]
    lines = {system["name"]: evaluators_line(system.get("evaluators") or {}) for system in systems}
    warnings = [("", warning) for warning in comparison.get("warnings") or []]
    warnings += [(system["name"], warning) for system in systems for warning in system.get("warnings") or []]
    return {
        "title": f"Comparison of {len(names)} systems",
        "sections": SECTIONS,
        "names": names,
        "requests": comparison.get("requests"),
        "warnings": warnings,
        "evaluators": lines,
        "one_line": next(iter(lines.values())) if len(set(lines.values())) == 1 else None,
        "metrics": {key: METRICS[key] for key in keys},
        "rows": [
            (METRICS[key], row_cells(key, systems, comparison.get("differences", {}).get(key) or []))
            for key in keys
        ],
        "dots": interval_plots(keys, systems),
        "combinations": joint_heat_map(systems),
    }


def row_cells(
    key: str, systems: list[dict], differences: list[dict | None]
) -> list[tuple[TableCell, Difference | None]]:
    """One metric of every system, with its difference against the first."""
    padded = [*differences, *[None] * len(systems)]
    return [
        (cell(system["overall"], key), difference_of(key, found)) for system, found in zip(systems, padded)
    ]


def difference_of(key: str, found: dict | None) -> Difference | None:
    """A difference as texts; None where there is none."""
    if not found or found.get("value") is None:
        return None
    interval = found.get("ci95")
    text = ("+" if found["value"] > 0 else "") + written(key, found["value"])
    return Difference(
        text.replace("-", "−"), bracket(key, interval).replace("-", "−"), verdict(key, interval)
    )


def verdict(key: str, interval: list[float] | None) -> str:
    """What the interval of a metric's difference says; empty where it holds 0."""
    if not excludes_zero(key, interval):
        return ""
    if METRICS[key].better is None:
        return "differs"
    return "better" if (interval[0] > 0) == (METRICS[key].better == "higher") else "worse"


def interval_plots(keys: list[str], systems: list[dict]) -> list[Markup]:
    """A dot-and-interval plot per metric that some system has; the number of replies needs none."""
    pictures, names = [], [system["name"] for system in systems]
    for key in keys:
        values = [system["overall"].get(key) for system in systems]
        intervals = [system["overall"].get("ci95", {}).get(key) for system in systems]
        if key != "n" and any(value is not None for value in values):
            pictures.append(
                plots.dots(
                    names, values, intervals, f"{METRICS[key].title} {arrow(key)}".strip(), unit_of(key)
                )
            )
    return pictures


def unit_of(key: str) -> str:
    """The axis title of a metric."""
    units = {
        "ppl": "perplexity (no unit)",
        "length": "words per reply",
        "nli": "mean probability",
        "probability_mean": "mean probability",
    }
    return units.get(
        key, "score, 0 to 100" if key.startswith(("bleu", "rouge", "self_bleu")) else "share, 0 to 1"
    )


def joint_heat_map(systems: list[dict]) -> dict | None:
    """Joint accuracy: rows are combinations, columns are systems; None where no system has any."""
    targets = list(dict.fromkeys(target for system in systems for target in system.get("by_target") or {}))
    if not targets:
        return None
    values = [
        [(system.get("by_target") or {}).get(target, {}).get("accuracy_joint") for system in systems]
        for target in targets
    ]
    names = [readable(target) for target in targets]
    picture = plots.heat_map(
        values,
        names,
        [system["name"] for system in systems],
        "Joint accuracy",
        "share of replies, one column per system",
        "aspects asked for",
    )
    return {
        "picture": picture,
        "table": [(name, [share(value) for value in row]) for name, row in zip(names, values)],
    }
