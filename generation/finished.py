"""Whether a decoding of the same inputs lies finished in a run's folder, so that it is not written and scored again."""

from pathlib import Path

from common.errors import InputError
from common.jsonl import read_json
from common.provenance import fingerprint
from generation.kept import replies_digest
from scoring.score import baseline_for
from scoring.stale import mixed, stamp_of

VERSION = 1  # of what generation and scoring do; raise it where the same inputs come out otherwise
MEASURED = (
    "score",
    "trace",
    "sweep_weights",
    "ppl_",
)  # beginnings of the options that decide what is measured


def unfinished(replies: Path) -> Path:
    """Where the replies of a decoding lie until all that is made of them is on disk."""
    return replies.with_name(f"{replies.stem}.replies.partial")


def inputs_hash(requests: str, evaluators: str | None, configuration: dict) -> str | None:
    """What replies and their scores stand on, as a hash; None where the evaluators are unknown.

    Args:
        requests: `generation.kept.request_hash`.
        evaluators: the scorer's hash.
        configuration: option -> value, of the whole generation.
    """
    if evaluators is None:
        return None
    measured = {name: value for name, value in configuration.items() if name.startswith(MEASURED)}
    return fingerprint(
        {"version": VERSION, "requests": requests, "evaluators": evaluators, "measured": measured}, []
    )


def finished(run_folder: Path, name: str, inputs: str | None) -> dict | None:
    """The results of a finished decoding with these inputs, whose replies are there and are those measured; else None."""
    place, replies = run_folder / "results" / f"{name}.json", run_folder / "generations" / f"{name}.jsonl"
    try:
        record = read_json(place) or {}
    except InputError:
        return None  # damaged: it is written again
    run = record.get("run") or {}
    if inputs is None or run.get("inputs") != inputs or unfinished(replies).is_file():
        return None
    if mixed(record, stamp_of(replies)) or replies_digest(replies) != run.get("replies"):
        return None
    beside = [place.with_name(f"{name}.{kind}.json") for kind in run.get("beside") or []]
    if name == "control":
        beside += [run_folder / "generations.jsonl", run_folder / "results.json"]
    if not all(path.is_file() for path in beside):
        return None
    baseline, _ = baseline_for(
        run_folder, name, run.get("requests") or {}, run.get("cvae"), record.get("evaluators") or {}
    )
    return record if baseline == record.get("baseline") else None
