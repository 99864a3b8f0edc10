"""``table.md``: the best setting of each model, then every setting, with intervals and what the evaluators are worth."""

from pathlib import Path

from common.jsonl import read_json
from experiments.plan import Plan
from experiments.summary import TOLERANCE, Summary, best_of_models, control_of
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
}
SHOWN = (
    "accuracy_joint", "accuracy_mean", "nli", "ppl", "distinct2", "self_bleu", "repetition", "length",
    "second_accuracy_mean", "second_accuracy_joint", "both_joint",
)  # fmt: skip


def write_table(work: Plan, known: list[Summary]) -> Path:
    """Write the table into the experiment's folder; returns its path."""
    grid, best = work.grid, best_of_models(known)
    ranked = sorted(best.values(), key=lambda pair: control_of(pair[0]), reverse=True)
    ranked = sorted(ranked, key=lambda pair: pair[0].kind != "human")  # the ceiling stands above
    record = read_json(grid.folder / "experiment.json") or {}
    contexts = len({request.context for request in work.requests})
    seeds = max(summary.seeds for summary in known)
    brackets = "least and greatest of the seeds" if seeds > 1 else "95 % bootstrap intervals over contexts"
    lines = [
        f"# {grid.name}",
        "",
        f"{contexts} contexts ({grid.contexts}) x {len(work.schema.combinations())} combinations, seeds {', '.join(map(str, grid.seeds))}.",
        f"Chance is {chance(work):.3f} for joint accuracy. In brackets: {brackets}.",
        "",
        "## The best setting of each model",
        "",
        f"The highest joint accuracy among the settings whose coherence is within {TOLERANCE} of the best uncontrolled setting's;",
        "models marked * have none such, and their setting has the highest joint accuracy whatever its coherence.",
        "Human replies are labelled for one attribute each and have no joint accuracy.",
        "",
        _table(
            [(summary, "" if coherent or summary.kind == "human" else "*") for summary, coherent in ranked]
        ),
        "",
        "![joint accuracy against coherence](frontier.png)",
        "",
        "## All settings",
        "",
        _table([(summary, "") for summary in sorted(known, key=control_of, reverse=True)]),
        "",
    ]
    measured = sum(summary.seeds for summary in known)
    if measured < len(work.cells):
        lines += [f"{len(work.cells) - measured} of {len(work.cells)} cells are not measured.", ""]
    if any(summary.sampler for summary in known):
        lines += [
            "~ the sampler's own check failed for some replies; see the column `warnings` of results.csv.",
            "",
        ]
    evaluators = [
        [name, written("accuracy_mean", one["accuracy"]), one["base"] or "-", one["hash"] or "-"]
        for name, one in record.get("evaluators", {}).items()
    ]
    if evaluators:
        lines += [
            "## The evaluators",
            "",
            markdown(["evaluator", "accuracy on dev", "base", "hash"], evaluators),
            "",
        ]
    lines += [f"- Warning: {warning}" for warning in record.get("warnings", [])]
    path = grid.folder / "table.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def chance(work: Plan) -> float:
    """Joint accuracy of a blind guess."""
    return 1 / len(work.schema.combinations())


def _table(entries: list[tuple[Summary, str]]) -> str:
    shown = [key for key in SHOWN if any(summary.values.get(key) is not None for summary, _ in entries)]
    heading = [
        "model",
        "setting",
        *(
            TITLES.get(key, METRICS[METRIC_OF.get(key, key)].title) + arrow(METRIC_OF.get(key, key))
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
    form = METRIC_OF.get(key, key)
    text, ends = written(form, summary.values.get(key)), summary.ends.get(key)
    return text + (
        f" [{written(form, ends[0])}, {written(form, ends[1])}]"
        if ends and summary.values.get(key) is not None
        else ""
    )
