"""The report of one run: reads the run's folder, builds the page."""

import re
import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import is_file, read_json
from scoring.metrics import METRICS
from scoring.report import plots
from scoring.report.page import render, write_page
from scoring.report.replies import ReplyBrowser, read_replies
from scoring.report.wording import NOTHING, cell, chance, evaluators_line, metric_rows, readable, share
from scoring.samples import shortened, spread
from scoring.stale import mixed, stale_parts
from scoring.systems import evaluator_folders

SECTIONS = {
    "table": "Results",
    "combinations": "Combinations of aspects",
    "evaluators": "What the evaluators predict, and how good they are",
    "latents": "Latent space",
    "ode": "Along the ODE",
    "dial": "Strength dial",
    "training": "Training",
    "replies": "Replies",
    "configuration": "Configuration",
}
TERMS = {  # key of the trainer's log -> title, unit
    "loss": ("loss", "nats, weighted sum"),
    "reconstruction": ("reconstruction", "nats per token"),
    "context": ("context", "nats per token"),
    "kl": ("KL with free bits", "nats per example"),
    "kl_unclamped": ("KL", "nats per example"),
    "classification": ("classification", "nats"),
    "distance": ("distance of the attributes' means", "squared latent units"),
    "head_accuracy": ("latent heads on the posterior", "accuracy (share)"),
    "prior_head_accuracy": ("latent heads on the prior", "accuracy (share)"),
    "prior_std": ("standard deviation of the prior", "latent units"),
    "posterior_std": ("standard deviation of the posterior", "latent units"),
    "latent_scale": ("root mean square of the latents", "latent units"),
    "kl_weight": ("weight of the KL", "no unit"),
}


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds; None where a file is missing."""

    name: str
    results: dict
    aspects: dict[str, list[str]]
    replies: ReplyBrowser | None
    latents: dict | None
    sweep: dict | None
    history: list[dict]
    stale: list[str]  # warnings of what is of other weights or data than the results


def write_run_report(run_folder: Path, output: Path | None = None) -> Path:
    """Write the report of a run as one HTML file that needs nothing else.

    Args:
        run_folder: ``outs/<run>``.
        output: the file; default ``report.html`` in the folder.

    Returns:
        The file written.

    Raises:
        InputError: without ``results.json``, or for a file that cannot be read.
    """
    run_folder = Path(run_folder)
    files = read_run(run_folder)
    return write_page(
        Path(output) if output else run_folder / "report.html",
        render("run.html.jinja", **page_content(files)),
    )


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder; raises `InputError` as `write_run_report` does."""
    if not is_file(folder / "results.json"):
        raise InputError(
            f"{folder}: no results.json; generate and score replies first (bash pipeline.sh, or bash gen_cvae.sh)"
        )
    results, latents = (
        read_json(folder / "results.json"),
        read_json(folder / "results" / "control.latents.json"),
    )
    stage = read_json(folder / "cvae" / "stage.json") or {}
    known = aspects_of(results) or (latents or {}).get("attributes", {})
    replies = read_replies(folder / "generations.jsonl", known)
    sweep, warnings = read_json(folder / "results" / "control.sweep.json"), []
    for kept, name in ((latents, "control.latents.json"), (sweep, "control.sweep.json")):
        if kept and (others := mixed(results, kept)):
            warnings.append(
                f"stale: results/{name} was made with another {', '.join(others)} than results.json and is not shown; write it again: bash gen_cvae.sh"
            )
            latents, sweep = (None if other is kept else other for other in (latents, sweep))
    return RunFiles(
        folder.resolve().name,
        results,
        dict(replies.attributes) if replies else known,
        replies,
        latents,
        sweep,
        (stage.get("metrics") or {}).get("history") or [],
        stale_parts(folder, evaluator_folders(list(known))) + warnings,
    )


def aspects_of(results: dict) -> dict[str, list[str]]:
    """Attribute -> aspects as the results record them: in the configuration, else in the confusion matrices."""
    configured = ((results.get("run") or {}).get("config") or {}).get("generation", {}).get("attributes")
    if configured:
        return configured
    attributes = results["overall"].get("attributes", {})
    return {name: m["confusion"]["labels"] for name, m in attributes.items() if m.get("confusion")}


def page_content(files: RunFiles) -> dict:
    """Everything that the template shows."""
    results = files.results
    rows = metric_rows(
        [results["overall"], results.get("baseline"), results.get("references")],
        results.get("evaluators") or {},
    )
    shown = {row.key for row in rows}
    return {
        "title": f"Run {files.name}",
        "sections": SECTIONS,
        "summary": summary(files),
        "metrics": {key: metric for key, metric in METRICS.items() if key in shown},
        "rows": rows,
        "dashes": any(part.value == NOTHING for row in rows for part in _columns(row.cells, results)),
        "generate": generate_command(files.name, results),
        "samples": sample_replies(files.replies),
        "has_baseline": bool(results.get("baseline")),
        "has_references": bool(results.get("references")),
        "own_accuracy": evaluators_line(results.get("evaluators") or {}),
        "warnings": [*(results.get("warnings") or []), *files.stale],
        "combinations": combinations(results),
        "predicted": predicted(results["overall"]),
        "evaluators": evaluators(results.get("evaluators") or {}),
        "latents": latent_panels(files.latents),
        "ode": ode_panels(files.latents),
        "sweep": sweep_panels(files.sweep),
        "curves": curves(files.history),
        "replies": files.replies,
        "run": results.get("run") or {},
        "device": (results.get("run") or {}).get("device"),
        "date": (results.get("run") or {}).get("date"),
    }


def _columns(cells: list, results: dict) -> list:
    """Of a row's cells those whose column is shown: a baseline or real replies may be missing."""
    known = (True, bool(results.get("baseline")), bool(results.get("references")))
    return [part for part, there in zip(cells, known) if there]


def configuration_of(results: dict, part: str) -> dict:
    """The settings that the results record of ``generation`` or the ``cvae``; empty where they do not."""
    return ((results.get("run") or {}).get("config") or {}).get(part) or {}


def generate_command(name: str, results: dict) -> str:
    """``SCHEMA=my_schema.py RUN=name bash gen_cvae.sh``: what generates for this run again, with its preset and rows."""
    generation, command = (
        configuration_of(results, "generation"),
        (results.get("run") or {}).get("command") or "",
    )
    preset, schema = re.search(r"--preset[ =](\S+)", str(command)), generation.get("schema")
    variables = {
        "PRESET": preset and preset.group(1),
        "SCHEMA": None if schema == "schema.py" else schema,
        "RUN": name,
    }
    words = [f"{key}={shlex.quote(str(value))}" for key, value in variables.items() if value]
    limit = [f"--limit {generation['limit']}"] if generation.get("limit") else []
    return " ".join([*words, "bash gen_cvae.sh", *limit])


def sample_replies(replies: ReplyBrowser | None, count: int = 5) -> list[dict]:
    """A few replies, evenly over targets and contexts: the context's last turn, shortened, the reply, what was asked for."""
    if replies is None:
        return []
    found = []
    for number in spread([tuple(row["t"]) for row in replies.rows], count):
        row = replies.rows[number]
        asked = [
            (aspects[wanted], None if predicted is None else predicted[0] == wanted)
            for (_, aspects), wanted, predicted in zip(replies.attributes, row["t"], row["h"])
            if wanted >= 0
        ]
        turns = replies.contexts[row["c"]]
        found.append({"turn": shortened(turns[-1], 160) if turns else "", "reply": row["r"], "asked": asked})
    return found


def summary(files: RunFiles) -> dict:
    """The numbers of the page's first paragraph, as texts."""
    results = files.results
    overall, baseline, people = results["overall"], results.get("baseline"), results.get("references")
    guess = chance(results.get("by_target") or {}, files.aspects)
    return {
        "n": overall.get("n"),
        "limit": configuration_of(results, "cvae").get("limit"),
        "targets": len(results.get("by_target") or {}),
        "contexts": len(files.replies.contexts)
        if files.replies and files.replies.total == len(files.replies.rows)
        else None,
        "control": {key: cell(overall, key) for key in ("accuracy_mean", "accuracy_joint", "nli")},
        "baseline": {key: cell(baseline, key) for key in ("accuracy_mean", "accuracy_joint", "nli")}
        if baseline
        else None,
        "references": {key: cell(people, key) for key in ("accuracy_mean", "accuracy_joint", "nli")}
        if people
        else None,
        "chance": [share(value) for value in guess] if guess else None,
        "verdict": verdict(overall, guess),
    }


def verdict(overall: dict, guess: tuple[float, float] | None) -> str:
    """How the joint accuracy's interval lies to chance; empty where one of the two is unknown."""
    interval = overall.get("ci95", {}).get("accuracy_joint")
    if not interval or not guess:
        return ""
    if interval[0] > guess[1]:
        return "The interval of the joint accuracy lies above chance."
    return (
        "The interval of the joint accuracy lies below chance."
        if interval[1] < guess[1]
        else "The interval of the joint accuracy contains chance."
    )


def combinations(results: dict) -> dict | None:
    """The heat map and the table of the results per target; None where there are none."""
    by_target = results.get("by_target")
    if not by_target:
        return None
    attributes = list(results["overall"].get("attributes", {}))
    values = [
        [m.get("attributes", {}).get(name, {}).get("accuracy") for name in attributes]
        + [m.get("accuracy_joint"), m.get("nli")]
        for m in by_target.values()
    ]
    names, headings = [readable(target) for target in by_target], [*attributes, "joint", "coherence"]
    picture = plots.heat_map(
        values,
        names,
        headings,
        "Accuracy per attribute, joint accuracy and coherence",
        "share of replies; coherence: mean probability",
        "aspects asked for",
    )
    intervals = [cell(m, "accuracy_joint").interval for m in by_target.values()]
    table = [
        (name, [share(value) for value in row], interval, m.get("n"))
        for name, row, interval, m in zip(names, values, intervals, by_target.values())
    ]
    return {"picture": picture, "headings": headings, "table": table}


def predicted(overall: dict) -> list:
    """A confusion matrix per attribute: asked for against predicted."""
    found = {name: m["confusion"] for name, m in overall.get("attributes", {}).items() if m.get("confusion")}
    return [
        plots.confusion(matrix, name, "predicted by the classifier (replies)", "asked for (replies)")
        for name, matrix in found.items()
    ]


def evaluators(records: dict[str, dict]) -> dict:
    """The evaluators' own pictures: confusion and calibration on dev, and the coherence model's audit."""
    confusions = {name: record["confusion"] for name, record in records.items() if record.get("confusion")}
    calibrations = {
        name: record["calibration"]
        for name, record in records.items()
        if (record.get("calibration") or {}).get("bins")
    }
    audited = (records.get("nli") or {}).get("audit") or {}
    audit = {name: value for name, value in audited.items() if value is not None}
    return {
        "confusions": [
            plots.confusion(matrix, f"{name} on dev", "predicted (texts)", "label (texts)")
            for name, matrix in confusions.items()
        ],
        "calibrations": [
            plots.reliability(calibration, f"{name} on dev") for name, calibration in calibrations.items()
        ],
        "audit": plots.bars(audit, "Audit of the coherence model", "mean coherence (probability)", "real")
        if audit
        else None,
    }


def latent_panels(latents: dict | None) -> list:
    """One picture of the latent space per attribute."""
    return (
        [plots.latent_panel(latents, name) for name in latents["attributes"]]
        if latents and latents.get("points")
        else []
    )


def ode_panels(latents: dict | None) -> list:
    """Energy and every attribute's probability along the pseudo-time."""
    if not latents or not latents.get("time"):
        return []
    time, found = latents["time"], []
    if latents.get("energy"):
        found.append(plots.along_the_ode(time, latents["energy"], "Energy", "energy (nats, weighted)"))
    for name, values in (latents.get("probability") or {}).items():
        aspects = latents["attributes"].get(name)
        found.append(
            plots.along_the_ode(
                time,
                values,
                name,
                "probability of the aspect asked for",
                1 / len(aspects) if aspects else 0.5,
            )
        )
    return found


def sweep_panels(sweep: dict | None) -> dict | None:
    """The strength dial, what it costs, and what the sampler warned of at which weight."""
    points = (sweep or {}).get("points") or []
    warnings = [
        (f"{point['weight']:g}", warning) for point in points for warning in point.get("warnings") or []
    ]
    return (
        {"pictures": [plots.dial(points), plots.frontier(points)], "warnings": warnings} if points else None
    )


def curves(history: list[dict]) -> list:
    """Every logged term of the loss on train and dev.

    A dev curve that is 0 throughout while the train curve is not belongs to a term that is not computed on dev, and
    is left out.
    """
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in history:
        for key, value in entry.items():
            if "step" in entry and isinstance(value, (int, float)) and abs(value) < 1e300:
                series[key].append((entry["step"], value))
    pictures = []
    for key, (title, unit) in TERMS.items():
        train, dev = series[key], series["eval_" + key]
        if any(value for _, value in train) and not any(value for _, value in dev):
            dev = []
        if train or dev:
            pictures.append(plots.training_curve(train, dev, title, unit))
    return pictures
