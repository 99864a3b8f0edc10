"""``table.md``: where our model is ahead, the best setting of each, frontiers, unseen combinations, every setting, the evaluators."""

from pathlib import Path

from common.files import replacing
from common.jsonl import read_json
from experiments.measures import COST
from experiments.plan import Plan
from experiments.standing import Standing, standings, write_standings
from experiments.summary import TOLERANCE, Summary, best_of_models, control_of
from experiments.unseen import Drop, drops
from scoring.compare import markdown
from scoring.metrics import METRICS, arrow, written

METRIC_OF = {
    "second_accuracy_mean": "accuracy_mean",
    "second_accuracy_joint": "accuracy_joint",
    "both_joint": "accuracy_joint",
}
TITLES = {
    "second_accuracy_mean": "accuracy, 2nd set",
    "second_accuracy_joint": "joint, 2nd set",
    "both_joint": "joint, both sets",
    "seconds_per_1000": "s per 1,000↓",
    "seconds_training": "training s↓",
    "memory_generation": "memory MB↓",
    "memory_training": "training MB↓",
}
SHOWN = (
    "accuracy_joint", "accuracy_mean", "nli", "ppl", "mauve", "distinct2", "self_bleu", "repetition", "length",
    "second_accuracy_mean", "second_accuracy_joint", "both_joint", *COST,
)  # fmt: skip


def write_table(work: Plan, known: list[Summary], rows: list[dict[str, str]]) -> Path:
    """Write the table into the experiment's folder, and ``frontiers.csv``; returns the table's path.

    Args:
        known: the settings without held-out combinations.
        rows: of ``results.csv``.
    """
    grid = work.grid
    ranking = standings(work, known, rows) if known else []
    lines = [f"# {grid.name}", "", *_sentences(ranking), *_conditions(work, known), *_settings(known)]
    lines += _frontiers(ranking) + _unseen(drops(work, rows)) + _all_settings(known)
    measured = {row.get("key") for row in rows} & {cell.key for cell in work.cells}
    if len(measured) < len(work.cells):
        lines += [f"{len(work.cells) - len(measured)} of {len(work.cells)} cells are not measured.", ""]
    if any(summary.sampler for summary in known):
        lines += [
            "~ the sampler's own check failed for some replies; see the column `warnings` of results.csv.",
            "",
        ]
    lines += _evaluators(read_json(grid.folder / "experiment.json") or {})
    if ranking:
        write_standings(grid.folder / "frontiers.csv", ranking)
    path = grid.folder / "table.md"
    with replacing(path) as out:
        out.write("\n".join(lines).rstrip() + "\n")
    return path


def _sentences(ranking: list[Standing]) -> list[str]:
    """Whether our model is ahead, the others of which it is not first."""
    leads = [one.lead for one in ranking if one.lead is not None]
    leads.sort(key=lambda one: one.verdict == "ahead")
    return [f"- {one.sentence}" for one in leads] + ([""] if leads else [])


def _conditions(work: Plan, known: list[Summary]) -> list[str]:
    """What was measured, and what stands in brackets."""
    grid = work.grid
    contexts = len({request.context for request in work.requests})
    seeds = max((summary.seeds for summary in known), default=1)
    brackets = "least and greatest of the seeds" if seeds > 1 else "95 % bootstrap intervals over contexts"
    return [
        f"{contexts} contexts ({grid.contexts}) x {len(work.schema.combinations())} combinations, seeds {', '.join(map(str, grid.seeds))}.",
        f"Chance is {chance(work):.3f} for joint accuracy. In brackets: {brackets}.",
        "",
    ]


def _settings(known: list[Summary]) -> list[str]:
    """The best setting of each model."""
    if not known:
        return []
    ranked = sorted(best_of_models(known).values(), key=lambda pair: control_of(pair[0]), reverse=True)
    ranked = sorted(ranked, key=lambda pair: pair[0].kind != "human")  # the ceiling stands above
    marks = [(summary, "" if coherent or summary.kind == "human" else "*") for summary, coherent in ranked]
    return [
        "## The best setting of each model",
        "",
        f"The highest joint accuracy among the settings whose coherence is within {TOLERANCE} of the best uncontrolled setting's;",
        "models marked * have none such, and their setting has the highest joint accuracy whatever its coherence.",
        "Human replies are labelled for one attribute each and have no joint accuracy.",
        "",
        _table(marks),
        "",
        "![joint accuracy against coherence](frontier.png)",
        "",
    ]


def _frontiers(ranking: list[Standing]) -> list[str]:
    """The hypervolume of each model's frontier."""
    if not ranking:
        return []
    if ranking[0].volume is None:
        return ["Hypervolumes of the frontiers are left out: they need `pip install pymoo`.", ""]
    ours = ranking[0].model
    rows = []
    for one in ranking:
        assert one.volume is not None  # where one model has it, all have
        value, interval = one.behind or (None, None)
        rows.append(
            [
                one.model,
                str(one.volume.settings),
                str(one.volume.seeds),
                f"{one.volume.value:.3f}{_bracket(one.volume.ci95)}",
                "-" if value is None else f"{value:+z.3f}{_bracket(interval, '+')}",
                one.lead.verdict if one.lead else "-",
            ]
        )
    heading = ["model", "settings", "seeds", "hypervolume↑", f"{ours} has more by", f"{ours} is"]
    return [
        "## Frontiers",
        "",
        "The hypervolume is the share of the square of joint accuracy and coherence that a model's settings dominate; it grows with their",
        "number. In brackets: 95 % intervals of a bootstrap over seeds and contexts.",
        "",
        markdown(heading, rows),
        "",
    ]


def _unseen(unseen_drops: list[Drop]) -> list[str]:
    """Joint accuracy on seen and unseen combinations."""
    if not unseen_drops:
        return []
    rows = [
        [
            one.model,
            one.setting,
            str(one.cells),
            f"{one.seen:.3f}",
            f"{one.unseen:.3f}",
            f"{one.drop:+z.3f}{_bracket(one.ci95, '+')}",
            "-" if one.gap is None else f"{one.gap:z.1%}",
        ]
        for one in unseen_drops
    ]
    heading = ["model", "setting", "splits x seeds", "joint, seen↑", "joint, unseen↑", "drop↓", "gap↓"]
    return [
        "## Unseen combinations",
        "",
        "Joint accuracy on combinations that a method may have learnt from, and on those held out of its training; the gap is the drop as a",
        "share of what is reached on seen ones. Methods that learn from single aspects alone have seen none; theirs is what the combinations",
        "differ in by themselves. In brackets: 95 % bootstrap intervals over contexts.",
        "",
        markdown(heading, rows),
        "",
    ]


def _all_settings(known: list[Summary]) -> list[str]:
    if not known:
        return []
    every = [(summary, "") for summary in sorted(known, key=control_of, reverse=True)]
    return ["## All settings", "", _table(every), ""]


def _evaluators(record: dict) -> list[str]:
    """What the evaluators are worth, and why not to trust them."""
    rows = [
        [name, written("accuracy_mean", one.get("accuracy")), one.get("base") or "-", one.get("hash") or "-"]
        for name, one in record.get("evaluators", {}).items()
    ]
    lines = [
        "## The evaluators",
        "",
        markdown(["evaluator", "accuracy on dev", "base", "hash"], rows),
        "",
    ]
    return (lines if rows else []) + [f"- Warning: {warning}" for warning in record.get("warnings", [])]


def _bracket(interval: list[float] | None, sign: str = "") -> str:
    return f" [{interval[0]:{sign}z.3f}, {interval[1]:{sign}z.3f}]" if interval else ""


def chance(work: Plan) -> float:
    """Joint accuracy of a blind guess."""
    return 1 / len(work.schema.combinations())


def _table(entries: list[tuple[Summary, str]]) -> str:
    shown = [key for key in SHOWN if any(summary.values.get(key) is not None for summary, _ in entries)]
    heading = [
        "model",
        "setting",
        *(
            TITLES[key]
            if key in COST
            else TITLES.get(key, METRICS[METRIC_OF.get(key, key)].title) + arrow(METRIC_OF.get(key, key))
            for key in shown
        ),
    ]
    rows = [
        [
            summary.model + mark,
            summary.setting + (" ~" if summary.sampler else ""),
            *(_cell(summary, key) for key in shown),
        ]
        for summary, mark in entries
    ]
    return markdown(heading, rows)


def _cell(summary: Summary, key: str) -> str:
    if key in COST:
        value = summary.values.get(key)
        return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
    form = METRIC_OF.get(key, key)
    text, ends = written(form, summary.values.get(key)), summary.ends.get(key)
    return text + (
        f" [{written(form, ends[0])}, {written(form, ends[1])}]"
        if ends and summary.values.get(key) is not None
        else ""
    )
