"""Turn one attribute's strength, hold the others', and see what the classifiers predict. ``python -m experiments.dials outs/demo``

For every attribute all combinations are written for every context at every strength, `--replies` times, from the same noise. <run>/dials/ gets the
replies, dials.csv (a row per attribute and strength), dials.json (shares of monotone contexts, gains, changes of what is held) and
dials.png. `scoring.dials` defines the numbers.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

from matplotlib.axes import Axes  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.jsonl import write_json, write_jsonl  # noqa: E402
from common.provenance import command_line, git_revision, package_versions  # noqa: E402
from experiments.study import (  # noqa: E402
    add_run_options,
    contexts_of,
    draw_panels,
    row_of,
    scored_run,
    write_csv,
)
from generation.control_weights import STRONGEST  # noqa: E402
from miracle import Miracle  # noqa: E402
from scoring.dials import csv_rows, summary, sweep_of  # noqa: E402
from scoring.report.plots import category  # noqa: E402

STRENGTHS = "0,1,3,10,30,100,300"
CURVES = {"probability": "aspect asked for", "held": "other attributes' aspects", "coherence": "coherence"}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(options, contexts=16)
    options.add_argument("--attributes", help="only these, joined by commas (default: all)")
    options.add_argument("--strengths", default=STRENGTHS, help=f"of the dial (default: {STRENGTHS})")
    options.add_argument(
        "--held", type=float, help="strength of the other attributes (default: the run's own)"
    )
    options.add_argument(
        "--candidates",
        type=int,
        default=1,
        help="replies to choose from; more than one are chosen by the heads, which a dial at 0 does not stop (default: 1)",
    )
    options.add_argument(
        "--replies",
        type=int,
        default=1,
        help="replies to each context and combination at each strength, with seeds of their own: a context's curve is the mean over them (default: 1)",
    )
    return options


def strengths_of(text: str) -> list[float]:
    """``"0,1,10"`` as rising numbers; raises `InputError` for anything else, and for fewer than two."""
    try:
        strengths = sorted({float(part) for part in text.split(",")})
    except ValueError:
        strengths = []
    if len(strengths) < 2 or not all(0 <= strength <= STRONGEST for strength in strengths):
        raise InputError(
            f"--strengths must be two or more numbers from 0 to {STRONGEST:g}, separated by commas, found {text!r}"
        )
    return strengths


def sweep_rows(
    model: Miracle,
    attribute: str,
    contexts: list[tuple[str, ...]],
    strengths: list[float],
    options: argparse.Namespace,
) -> list[dict]:
    """The replies of one attribute's dial, scored."""
    targets, seeds = model.schema.combinations(), range(options.seed, options.seed + options.replies)
    asked = [(list(context), target, seed) for context in contexts for target in targets for seed in seeds]
    held = model.weights if options.held is None else dict.fromkeys(model.weights, options.held)
    rows = []
    for strength in tqdm(strengths, desc=attribute, leave=False, disable=None):
        replies = model.replies(
            [context for context, _, _ in asked],
            [target for _, target, _ in asked],
            held | {attribute: strength},
            [seed for _, _, seed in asked],
            candidates=options.candidates,
        )
        rows += [row_of(reply, dial=attribute, strength=strength) for reply in replies]
    return rows


def draw(one: dict, axes: Axes) -> None:
    """One attribute's curves over its strength, with intervals."""
    x = list(range(len(one["strengths"])))
    for number, (name, label) in enumerate(CURVES.items()):
        values = [point[name]["value"] for point in one["points"]]
        if None in values:
            continue
        style = category(number)
        axes.plot(x, values, label=label, markersize=4, linestyle="-" if number == 0 else "--", **style)
        ends = [point[name]["ci95"] for point in one["points"]]
        if None not in ends:
            axes.fill_between(x, *zip(*ends), color=style["color"], alpha=0.15, linewidth=0)
    share = one["monotone_contexts"]["value"]
    axes.set_xticks(x, [f"{strength:g}" for strength in one["strengths"]])
    axes.set(
        ylim=(0, 1.02), title=f"{one['attribute']}: monotone in {share:.0%} of {one['contexts']} contexts"
    )
    axes.set(xlabel="strength (others held)", ylabel="mean probability")
    axes.legend(loc="lower right")


def line_of(one: dict) -> str:
    """A summary in one line."""

    def text(name: str, sign: str = "") -> str:
        value, interval = one[name]["value"], one[name]["ci95"]
        ends = f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else ""
        return "-" if value is None else f"{value:{sign}.3f}{ends}"

    return (
        f"{one['attribute']}: monotone in {text('monotone_contexts')} of {one['contexts']} contexts ({text('monotone_replies')} of single "
        f"replies), gain {text('gain', '+')}, others {text('held_change', '+')}"
    )


def main(argv: list[str] | None = None) -> int:
    """Sweep, write and print; returns the exit status."""
    options = parser().parse_args(argv)
    if options.replies < 1:
        raise InputError(f"--replies must be 1 or more, found {options.replies}")
    strengths, contexts = strengths_of(options.strengths), contexts_of(options)
    model = scored_run(options.run, options.device)
    names = (
        [name.strip() for name in options.attributes.split(",")] if options.attributes else model.schema.names
    )
    for name in names:
        model.schema.attribute(name)
    folder: Path = options.output_dir or options.run / "dials"
    summaries = []
    for name in names:
        rows = sweep_rows(model, name, contexts, strengths, options)
        write_jsonl(folder / f"{name}.jsonl", rows)
        summaries.append(summary(sweep_of(rows, name, model.schema)))
        print(line_of(summaries[-1]), flush=True)
    record = {
        "command": command_line(),
        "seed": options.seed,
        "candidates": options.candidates,
        "replies": options.replies,
    }
    record |= {"held": options.held, "versions": package_versions(), "git": git_revision()}
    write_json(folder / "dials.json", {"attributes": summaries, "run": record})
    write_csv(folder / "dials.csv", csv_rows(summaries))
    draw_panels(folder / "dials.png", [partial(draw, one) for one in summaries])
    print(f"-> {folder / 'dials.json'}", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
