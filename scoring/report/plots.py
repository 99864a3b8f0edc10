"""The report's figures: numbers in, inline SVG out; every one has axis titles, a title and words for a screen reader."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FuncFormatter

from scoring.report.svg import picture

# Okabe and Ito (2008): told apart with every kind of colour vision. Yellow, hard to see on white, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANEL = 3.03  # inches: three side by side on a screen, one on a phone
WIDE = 3.6  # still legible on a phone
TEXT_WIDTH = 9.6  # inches that a picture has beside the margins of a page
NARROWEST = 0.62  # inches of a cell with its value
CHARACTER = 0.068  # inches that a character of a tick label takes
HEAT = ListedColormap(colormaps["cividis"](np.linspace(0.05, 1, 20)), "cividis in steps of 0.05")
PLAIN = FuncFormatter(
    lambda value, _: f"{value:g}"
)  # powers of ten would be set as mathematics, which is off
PSEUDO_TIME = "pseudo-time s, no unit (0 = prior"


def category(index: int) -> dict:
    """Colour and marker of a category; the two repeat together only after 49."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
    }


def short(text: str, width: int = 24, lines: int = 2) -> str:
    """A label in at most `lines` lines, with dots for what is left out."""
    wrapped = textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    return "\n".join(
        wrapped if len(wrapped) <= lines else [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1] + "…"]
    )


def fitted(name: str, width: int) -> str:
    """A name in at most `width` characters; names often differ at their end."""
    half = width // 2
    return name if len(name) <= width else f"{name[:half]}…{name[half + 1 - width :]}"


def _label(text: str) -> str:
    """Text that a legend shows although it begins with the underscore that Matplotlib takes for 'hidden'."""
    return "\u200b" + text if text.startswith("_") else text


def _cells(axes: Axes, values: np.ndarray, texts: list[list[str]], size: float = 8):
    """A grid of coloured cells with their values; grey where there is none."""
    axes.grid(False)
    axes.set_facecolor("#ececec")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=HEAT, edgecolors="white", linewidth=0.8
    )
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = HEAT(0.0 if np.isnan(value) else float(value))
        light = np.isnan(value) or 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column + 0.5,
            row + 0.5,
            texts[row][column],
            ha="center",
            va="center",
            size=size,
            color="#111111" if light else "white",
        )
    return mesh


def heat_map(
    values: list[list[float | None]],
    rows: list[str],
    columns: list[str],
    title: str,
    x_title: str,
    y_title: str,
) -> Markup:
    """Shares in [0, 1] as coloured cells with the values in them.

    Args:
        values: [rows][columns]; None: a grey cell with a dash.
        columns: headings; long ones are wrapped, and slanted where the page is not wide enough for them.
        x_title: says what the numbers are, with the unit.
    """
    names = [short(column, 16, 3) for column in columns]
    heading = CHARACTER * max(len(line) for name in names for line in name.split("\n"))
    beside = 1.35 + CHARACTER * max(len(row) for row in rows)
    wide = max(NARROWEST, min(0.16 + heading, (TEXT_WIDTH - beside) / len(columns)))
    slanted = heading > wide
    width = beside + wide * len(columns)
    height = 1.15 + 0.25 * len(rows) + 0.13 * max(name.count("\n") for name in names)
    height += 0.5 * heading if slanted else 0.0

    def draw(axes: Axes) -> None:
        grid = np.array(values, dtype=float)
        mesh = _cells(
            axes, grid, [["–" if value is None else f"{value:.2f}" for value in row] for row in values]
        )
        axes.xaxis.tick_top()
        axes.set_xticks(
            np.arange(len(columns)) + 0.5,
            names,
            rotation=30 if slanted else 0,
            ha="left" if slanted else "center",
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.set(title=title, xlabel=x_title, ylabel=y_title)
        bar = axes.figure.colorbar(
            mesh, ax=axes, fraction=0.05, aspect=22, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1]
        )
        bar.outline.set_visible(False)
        bar.set_label("0 to 1, no unit")

    return picture(
        width,
        height,
        f"{title}: heat map, {len(rows)} rows and {len(columns)} columns; the values stand in the table below",
        draw,
    )


def confusion(matrix: dict, title: str, x_title: str, y_title: str) -> Markup:
    """A confusion matrix: counts and shares of the row, coloured by the share.

    Args:
        matrix: ``{"labels": [...], "counts": [[...]]}``, rows = what is true or wanted.
    """
    labels, counts = (
        [short(label, 14, 1) for label in matrix["labels"]],
        np.array(matrix["counts"], dtype=float),
    )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    right = f"{np.trace(counts) / counts.sum():.3f}" if counts.sum() else "unknown"
    extra = 0.42 * max(0, len(labels) - 4)

    def draw(axes: Axes) -> None:
        texts = [
            [f"{count:.0f}" + ("" if np.isnan(share) else f"\n{share:.2f}") for count, share in zip(*pair)]
            for pair in zip(counts, shares)
        ]
        _cells(axes, shares, texts)
        axes.set_xticks(
            np.arange(len(labels)) + 0.5,
            labels,
            rotation=30 if extra else 0,
            ha="right" if extra else "center",
        )
        axes.set_yticks(np.arange(len(labels)) + 0.5, labels, rotation=0 if extra else 90, va="center")
        axes.set(
            title=f"{fitted(title, 22)}: {right}, n = {counts.sum():.0f}", xlabel=x_title, ylabel=y_title
        )

    words = "; ".join(
        f"{name}: " + ", ".join(f"{count:.0f} {predicted}" for predicted, count in zip(labels, row))
        for name, row in zip(labels, counts)
    )
    return picture(PANEL + extra, 2.75 + extra, f"{title}, confusion matrix. {words}", draw)


def reliability(calibration: dict, title: str) -> Markup:
    """Reliability diagram: accuracy against confidence, the area of a point grows with its number of texts.

    Args:
        calibration: ``{"ece": x, "bins": [{"confidence", "accuracy", "n"}]}``; empty bins are left out.
    """
    bins = [
        b
        for b in calibration["bins"]
        if b.get("n") and b.get("confidence") is not None and b.get("accuracy") is not None
    ]
    ece = "unknown" if calibration.get("ece") is None else f"{calibration['ece']:.3f}"
    largest = max((b["n"] for b in bins), default=1)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        confidence, accuracy = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
        axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=0.8)
        axes.scatter(
            confidence,
            accuracy,
            s=[12 + 150 * b["n"] / largest for b in bins],
            color=COLOURS[0],
            alpha=0.75,
            edgecolor="white",
            clip_on=False,
            zorder=3,
        )
        axes.text(
            0.03,
            0.97,
            f"largest point: {largest} texts\ndashed: perfectly calibrated",
            transform=axes.transAxes,
            va="top",
            size=7.5,
            color="#444444",
        )
        axes.set(
            xlim=(0, 1.02),
            ylim=(0, 1.02),
            title=f"{fitted(title, 24)}: ECE {ece}",
            xlabel="confidence (mean probability)",
            ylabel="accuracy (share)",
        )

    words = "; ".join(
        f"confidence {b['confidence']:.2f}, accuracy {b['accuracy']:.2f}, {b['n']} texts" for b in bins
    )
    return picture(
        PANEL, 2.75, f"{title}, reliability diagram, expected calibration error {ece}. {words}", draw
    )


def bars(values: dict[str, float], title: str, x_title: str, first: str) -> Markup:
    """Horizontal bars in [0, 1] with their values; the bar named `first` has another colour and hatching."""
    names = list(values)

    def draw(axes: Axes) -> None:
        drawn = axes.barh(
            range(len(names)),
            list(values.values()),
            height=0.68,
            color=[COLOURS[2] if name == first else "#b9c4cc" for name in names],
        )
        for name, bar in zip(names, drawn):
            bar.set_hatch("///" if name == first else "")
            bar.set_edgecolor("white")
            axes.text(
                bar.get_width() + 0.015,
                bar.get_y() + bar.get_height() / 2,
                f"{values[name]:.2f}",
                va="center",
                size=8,
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set(xlim=(0, 1.12), title=title, xlabel=x_title, ylabel="kind of reply")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])

    return picture(
        PANEL + 0.5,
        1.0 + 0.22 * len(names),
        f"{title}. " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()),
        draw,
    )


def latent_panel(latents: dict, attribute: str, arrows: int = 60, shown: int = 500) -> Markup:
    """The prior and the way from start to end of some latents in the prior's two main directions, coloured by one attribute.

    Args:
        latents: a run's ``control.latents.json``.
        arrows: at most so many ways are drawn, a seeded sample.
        shown: at most so many points of the prior, and of the ends.
    """
    points = [point for point in latents["points"] if attribute in point["target"]]
    rng = np.random.default_rng(0)
    ends = [points[i] for i in sorted(rng.permutation(len(points))[:shown])]
    ways = [points[i] for i in sorted(rng.permutation(len(points))[:arrows])]
    prior = np.array(latents["prior"], dtype=float).reshape(-1, 2)
    prior = prior[np.sort(rng.permutation(len(prior))[:shown])]
    axis_titles = [
        f"PC {number} ({100 * share:.0f} % of the prior's variance)"
        for number, share in enumerate(latents["axes"]["explained"][:2], 1)
    ]

    def draw(axes: Axes) -> None:
        axes.scatter(*prior.T, s=5, color="#b5b5b5", linewidth=0, alpha=0.7, label="prior")
        for number, aspect in enumerate(latents["attributes"][attribute]):
            here, style = [point for point in ends if point["target"][attribute] == aspect], category(number)
            _ways(axes, [point for point in ways if point["target"][attribute] == aspect], style["color"])
            if here:
                axes.scatter(
                    *np.array([point["end"] for point in here]).T,
                    s=15,
                    **style,
                    alpha=0.85,
                    linewidth=0.3,
                    edgecolor="white",
                    label=_label(aspect),
                    zorder=3,
                )
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(
            title=f"{fitted(attribute, 22)} (latent units)", xlabel=axis_titles[0], ylabel=axis_titles[1]
        )
        axes.figure.legend(
            loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1.2, markerscale=1.6
        )

    words = f"{len(prior)} samples of the prior, {len(ends)} end points by the aspect asked for, {len(ways)} ways from start to end"
    return picture(PANEL, 3.5, f"{attribute}: {words}", draw)


def _ways(axes: Axes, points: list[dict], colour: str) -> None:
    if points:
        start, end = (np.array([point[key] for point in points], dtype=float) for key in ("start", "end"))
        axes.quiver(
            *start.T,
            *(end - start).T,
            angles="xy",
            scale_units="xy",
            scale=1,
            color=colour,
            alpha=0.45,
            width=0.0035,
            headwidth=4.5,
            headlength=6,
        )


def along_the_ode(
    time: list[float], values: dict, title: str, y_title: str, chance: float | None = None
) -> Markup:
    """A mean with its 5 to 95 % band along the pseudo-time.

    Args:
        values: ``{"mean", "low", "high"}``, lists as long as `time`.
        chance: a dashed line; None where there is none, and then the axis is logarithmic if the values need it.
    """
    mean, low, high = (np.array(values[key], dtype=float) for key in ("mean", "low", "high"))
    graded = (
        len(time) > 2 and 0 < time[2] < time[-1] / 50
    )  # points crowd at the start, because all happens there

    def draw(axes: Axes) -> None:
        axes.fill_between(time, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="5 to 95 %")
        axes.plot(time, mean, color=COLOURS[0], label="mean")
        if chance is not None:
            axes.axhline(chance, color="#888888", linestyle="--", linewidth=1, label="chance")
            axes.set_ylim(-0.02, 1.02)
        elif mean.min() > 0 and mean.max() > 50 * mean.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PLAIN)
            axes.set_ylim(
                bottom=max(low[low > 0].min(), mean.min() / 100) if (low > 0).any() else mean.min() / 10
            )
        axes.set(
            title=fitted(title, 34), xlabel=PSEUDO_TIME + (", log scale)" if graded else ")"), ylabel=y_title
        )
        axes.margins(x=0.02)
        if graded:
            first, last = np.floor(np.log10(time[2])), np.floor(np.log10(time[-1]))
            axes.set_xscale("symlog", linthresh=10**first, linscale=0.3)
            axes.xaxis.set_major_formatter(PLAIN)
            axes.set_xticks([0, *10 ** np.arange(first + 1, last + 1)])
            axes.set_xticks([], minor=True)
            axes.set_xlim(0, time[-1])
        axes.figure.legend(loc="outside lower center", ncols=3)

    return picture(
        PANEL,
        2.75,
        f"{title}: mean from {mean[0]:.3g} at the prior to {mean[-1]:.3g} at the end, s = {time[-1]:g}",
        draw,
    )


def _bars_of(points: list[dict], key: str) -> np.ndarray | None:
    """Lengths below and above [2, N] of the 95 % intervals; NaN where a point has none, None where none has one."""
    lengths = np.full((2, len(points)), np.nan)
    for column, point in enumerate(points):
        m = point["overall"]
        if m.get("ci95", {}).get(key) and m.get(key) is not None:
            low, high = m["ci95"][key]
            lengths[:, column] = max(0.0, m[key] - low), max(0.0, high - m[key])
    return None if np.isnan(lengths).all() else lengths


def _values_of(points: list[dict], key: str) -> np.ndarray:
    return np.array(
        [np.nan if point["overall"].get(key) is None else point["overall"][key] for point in points],
        dtype=float,
    )


def dial(points: list[dict]) -> Markup:
    """Accuracy and coherence against the energy's weight.

    Args:
        points: ``[{"weight": w, "overall": M}]``.
    """
    points = sorted(points, key=lambda point: point["weight"])
    weights = [point["weight"] for point in points]
    least = min((weight for weight in weights if weight > 0), default=1)
    series = (
        ("accuracy_mean", "accuracy, mean"),
        ("accuracy_joint", "accuracy, joint"),
        ("nli", "coherence"),
    )

    def draw(axes: Axes) -> None:
        if min(weights) > 0:
            axes.set_xscale("log")
            axes.set_xlim(least / 1.5, weights[-1] * 1.5)  # a single weight spans nothing by itself
        else:
            axes.set_xscale("symlog", linthresh=least, linscale=0.4)  # 0, no control, has a place too
        axes.xaxis.set_major_formatter(PLAIN)
        for number, (key, name) in enumerate(series):
            values = _values_of(points, key)
            if not np.isnan(values).all():
                axes.errorbar(
                    weights,
                    values,
                    yerr=_bars_of(points, key),
                    **category(number),
                    markersize=5,
                    capsize=2,
                    elinewidth=0.9,
                    label=name,
                )
        if len(weights) <= 8:
            axes.set_xticks(weights, [f"{weight:g}" for weight in weights])
            axes.set_xticks([], minor=True)
        axes.set(
            ylim=(-0.02, 1.02),
            title="Strength dial",
            xlabel="weight of the energy (no unit, log scale)",
            ylabel="share or mean probability",
        )
        axes.figure.legend(loc="outside lower center", ncols=3, handletextpad=0.4, columnspacing=1.2)

    words = "; ".join(
        f"weight {w:g}: "
        + ", ".join(f"{name} {v:.2f}" for key, name in series if not np.isnan(v := _values_of([p], key)[0]))
        for w, p in zip(weights, points)
    )
    return picture(WIDE, 3.2, f"Strength dial. {words}", draw)


def frontier(points: list[dict]) -> Markup:
    """Joint accuracy against perplexity, or against coherence where no perplexity was computed, one point per weight."""
    key = "ppl" if any(point["overall"].get("ppl") is not None for point in points) else "nli"
    points = [
        p
        for p in sorted(points, key=lambda p: p["weight"])
        if p["overall"].get(key) is not None and p["overall"].get("accuracy_joint") is not None
    ]
    across = {
        "ppl": "perplexity of the replies (lower is better)",
        "nli": "coherence, mean probability (higher is better)",
    }[key]
    x, y = _values_of(points, key), _values_of(points, "accuracy_joint")

    def draw(axes: Axes) -> None:
        axes.errorbar(
            x,
            y,
            xerr=_bars_of(points, key),
            yerr=_bars_of(points, "accuracy_joint"),
            fmt="none",
            ecolor="#a9b7c2",
            elinewidth=0.9,
        )
        axes.plot(x, y, color=COLOURS[0], marker="o", markersize=5, linewidth=0.9)
        axes.set(title="What control costs", xlabel=across, ylabel="joint accuracy (share)")
        axes.margins(0.12)
        label_points(axes, x, y, [f"{point['weight']:g}" for point in points])

    words = "; ".join(
        f"weight {point['weight']:g}: {key} {a:.3g}, joint {b:.2f}" for point, a, b in zip(points, x, y)
    )
    return picture(WIDE, 3.2, f"Joint accuracy against {across}. {words}", draw)


def label_points(
    axes: Axes, x: Sequence[float], y: Sequence[float], texts: list[str], colours: Sequence[str] | None = None
) -> None:
    """Write every text beside its point, on the first of eight sides where it covers no other text and no point.

    Args:
        texts: an empty one is a point that others keep clear of.
        colours: of the texts; None: black.
    """
    axes.figure.draw_without_rendering()  # places are known only once the layout is
    places = axes.transData.transform(np.column_stack([x, y])) if len(texts) else np.empty((0, 2))
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in places]
    for a, b in pairwise(places):  # the line between two points is no place for a label either
        taken += [
            (px - 1, py - 1, px + 1, py + 1) for px, py in a + np.linspace(0.1, 0.9, 9)[:, None] * (b - a)
        ]
    for (px, py), vx, vy, text, colour in zip(places, x, y, texts, colours or ["black"] * len(texts)):
        if not text:
            continue
        wide, high = 6.0 * len(text) + 2, 11.0
        sides = [
            (dx, dy) for dx, dy in ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
        ]
        boxes = [
            (
                px + dx * (7 + wide / 2) - wide / 2,
                py + dy * 11 - high / 2,
                px + dx * (7 + wide / 2) + wide / 2,
                py + dy * 11 + high / 2,
            )
            for dx, dy in sides
        ]
        clashes = [
            sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in taken) for a in boxes
        ]
        best = clashes.index(min(clashes))
        taken.append(boxes[best])
        dx, dy = sides[best]
        points = 72 / axes.figure.dpi
        offset = (dx * (7 + wide / 2) * points, dy * 11 * points)
        axes.annotate(
            text, (vx, vy), offset, textcoords="offset points", ha="center", va="center", size=8, color=colour
        )


def training_curve(
    train: list[tuple[float, float]], dev: list[tuple[float, float]], title: str, unit: str
) -> Markup:
    """One term of the loss over the optimizer's steps, on train and dev.

    Args:
        train, dev: (step, value) in order; either may be empty.
    """
    series = ((train, "train", "-", COLOURS[0], "o"), (dev, "dev", "--", COLOURS[1], "s"))

    def draw(axes: Axes) -> None:
        for points, name, line, colour, marker in series:
            if points:
                axes.plot(
                    *zip(*points),
                    color=colour,
                    linestyle=line,
                    marker=marker if len(points) <= 30 else None,
                    markersize=3,
                    label=name,
                )
        axes.set(title=title, xlabel="optimizer step", ylabel=unit)
        axes.legend(loc="best", ncols=2, handlelength=2.2)

    words = "; ".join(
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for points, name, *_ in series if points
    )
    return picture(PANEL, 2.2, f"{title}, {unit}: {words}", draw)


def dots(
    names: list[str],
    values: list[float | None],
    intervals: list[list[float] | None],
    title: str,
    x_title: str,
) -> Markup:
    """A dot and a 95 % interval per system; a system without a value keeps its line empty."""
    lines = [f"{number} {fitted(name, 17)}" for number, name in enumerate(names, 1)]

    def draw(axes: Axes) -> None:
        for row, (value, interval) in enumerate(zip(values, intervals)):
            if value is not None:
                style = category(row)
                if interval:
                    axes.plot(
                        interval,
                        [row, row],
                        color=style["color"],
                        linewidth=1.6,
                        solid_capstyle="round",
                        clip_on=False,
                    )
                axes.plot([value], [row], **style, markersize=6, linestyle="none", clip_on=False, zorder=3)
        axes.set_yticks(range(len(names)), lines)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.1)
        if axes.get_xlim()[0] < 0 <= min((value for value in values if value is not None), default=0):
            axes.set_xlim(left=0)  # no share is below 0
        axes.set(title=title, xlabel=x_title, ylabel="system")

    words = "; ".join(
        f"{name} unknown" if value is None else f"{name} {value:.3g}" for name, value in zip(names, values)
    )
    return picture(PANEL, 1.0 + 0.24 * len(names), f"{title}. {words}", draw)
