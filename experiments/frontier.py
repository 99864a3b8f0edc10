"""``frontier.png``: joint accuracy against coherence, a line per model over its strength."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from common.files import replacing
from experiments.plan import Plan
from experiments.summary import Summary, best_of_models
from experiments.table import chance
from scoring.report.plots import category, label_points, short
from scoring.report.svg import STYLE

WIDTH, HEIGHT, DPI = 8.2, 5.6, 160
LEAST_WIDTH = 0.1  # of the coherence axis
SIZES = {"font.size": 10, "axes.titlesize": 11.5, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5}


def write_frontier(work: Plan, known: list[Summary]) -> Path:
    """Write the picture into the experiment's folder; returns its path."""
    with matplotlib.rc_context(STYLE | SIZES):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(figure.subplots(), known, chance(work), f"{work.grid.name}: control against coherence")
        path = work.grid.folder / "frontier.png"
        with replacing(path, "wb") as out:
            figure.savefig(out, dpi=DPI, format="png")
    return path


def draw(axes: Axes, known: list[Summary], guess: float, title: str) -> None:
    """Draw the settings that have both numbers.

    A model's line goes through the settings that differ from its best one in strength alone, weakest first, with the
    strengths beside the points; its other settings are small and pale, joined where they differ in strength alone.
    """
    points = [s for s in known if s.values["accuracy_joint"] is not None and s.values["nli"] is not None]
    best = best_of_models(points)
    x, y, texts, colours = [], [], [], []
    for number, (model, (best_setting, _)) in enumerate(best.items()):
        style = category(number)
        line = sorted(
            (s for s in points if s.line == best_setting.line), key=lambda s: (s.dial is None, s.dial or 0.0)
        )
        others = [s for s in points if s.model == model and s.line != best_setting.line]
        for name in dict.fromkeys(s.line for s in others):
            places = [
                (s.values["nli"], s.values["accuracy_joint"])
                for s in sorted(
                    (s for s in others if s.line == name), key=lambda s: (s.dial is None, s.dial or 0.0)
                )
            ]
            axes.plot(*zip(*places), **style, markersize=3.5, linewidth=0.8, alpha=0.35)
        places = [(s.values["nli"], s.values["accuracy_joint"]) for s in line]
        axes.plot(*zip(*places), **style, markersize=6.5, linewidth=1.5, zorder=3)
        last = max(range(len(line)), key=lambda i: places[i][1])
        for i, (summary, (across, up)) in enumerate(zip(line, places)):
            dial = f"{summary.dial:g}" if summary.dial is not None and len(line) > 1 else ""
            x, y = [*x, across], [*y, up]
            texts.append(f"{short(model, 28, 1)} {dial}".strip() if i == last else dial)
            colours.append(
                tuple(0.7 * part for part in to_rgb(style["color"]))
            )  # thin letters need more contrast than lines
    axes.axhline(guess, color="#888888", linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        "chance",
        (1, guess),
        (-2, -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#555555",
        size=9,
    )
    everywhere = [s.values["nli"] for s in points]
    left, right = min(everywhere, default=0.0), max(everywhere, default=1.0)
    spare = max(
        0.2 * (right - left), (LEAST_WIDTH - (right - left)) / 2
    )  # differences of a thousandth are not to look like something
    left, right = max(left - spare, -0.02), min(right + spare, 1.02)
    axes.set(
        xlim=(left, right), ylim=(0, min(1.05, max(2.5 * guess, 1.15 * max(y, default=0.0)))), title=title
    )
    axes.set_ylabel("joint accuracy: all aspects predicted, share of replies")
    axes.set_xlabel(
        "coherence: mean probability that the reply fits its context\n(numbers beside points: strength)"
    )
    mark_people(axes, next((s.values["nli"] for s in known if s.kind == "human"), None), right)
    label_points(axes, x, y, texts, colours)


def mark_people(axes: Axes, coherence: float | None, right: float) -> None:
    """A line where human replies lie; where that is outside the picture, words that say so."""
    style = {"textcoords": "offset points", "ha": "right", "va": "top", "color": "#555555", "size": 9}
    if coherence is None:
        return
    if coherence > right:
        axes.annotate(
            f"human replies: {coherence:.2f} \u2192", (1, 1), (-4, -4), xycoords="axes fraction", **style
        )
        return
    axes.axvline(coherence, color="#888888", linestyle=":", linewidth=1.2, zorder=1)
    axes.annotate(
        "human replies", (coherence, 1), (-4, -4), xycoords=("data", "axes fraction"), rotation=90, **style
    )
