"""What results and replies stand on, as hashes, and what is of other weights or data than the rest of a run."""

from itertools import islice
from pathlib import Path

from common.errors import InputError
from common.jsonl import is_file, parse_line, read_json, read_lines
from common.provenance import fingerprint

DATA = (
    "the training ",
    "the dev ",
    "the NLI ",
)  # how the names of data begin in a stage's contents; others are models
STAMP = ("cvae", "evaluators")  # keys of a row of generations: hashes of what wrote it and of what scored it


def differ(one: str | None, other: str | None) -> bool:
    """Whether two hashes are of different things; an unknown one is taken for the same."""
    return one is not None and other is not None and one != other


def evaluators_hash(records: dict[str, dict]) -> str | None:
    """One hash of all evaluators, from name -> record with its ``hash``; None where one of them is unknown."""
    hashes = {name: record.get("hash") for name, record in records.items()}
    return fingerprint(hashes, []) if hashes and None not in hashes.values() else None


def other_evaluators(one: dict[str, dict], other: dict[str, dict]) -> list[str]:
    """``evaluator <name>`` for every one that has another hash in the other records."""
    return [
        f"evaluator {name}"
        for name, record in one.items()
        if differ(record.get("hash"), other.get(name, {}).get("hash"))
    ]


def trained_hash(stage: dict) -> str | None:
    """The hash of the weights as they were trained, before they were merged or made compact."""
    metrics = stage.get("metrics") or {}
    return metrics.get("trained_hash") or metrics.get("hash")


def data_hash(stage: dict) -> str | None:
    """One hash of all data that a stage was trained on; None where its record does not say."""
    contents = (stage.get("inputs") or {}).get("contents")
    data = {name: value for name, value in (contents or {}).items() if name.startswith(DATA)}
    return fingerprint(data, []) if data else None


def stamp_of(generations: Path) -> dict[str, str | None]:
    """`STAMP` of a generations file, by its first row; values are None where it does not say."""
    first = next(islice(read_lines(generations), 1), None) if is_file(generations) else None
    if first is None:
        return dict.fromkeys(STAMP)
    try:
        row = parse_line(first[1], first[0], strict=False)
    except InputError:
        return dict.fromkeys(STAMP)  # who reads the rows says what is wrong
    return {key: row[key] if isinstance(row.get(key), str) else None for key in STAMP}


def mixed(results: dict, stamp: dict[str, str | None]) -> list[str]:
    """What a file beside some results was made with, where that is not what the results stand on: ``CVAE``, ``evaluators``."""
    own = {
        "cvae": (results.get("run") or {}).get("cvae"),
        "evaluators": evaluators_hash(results.get("evaluators") or {}),
    }
    names = {"cvae": "CVAE", "evaluators": "evaluators"}
    return [names[key] for key in STAMP if differ(own[key], stamp.get(key))]


def stale_parts(run_folder: Path, evaluator_places: dict[str, str]) -> list[str]:
    """A line for everything in a run's folder that is of other weights or data than its ``results.json``.

    Args:
        evaluator_places: evaluator -> its folder inside the run.
    """
    results = read_json(run_folder / "results.json")
    if not results:
        return []
    run, found = results.get("run") or {}, []
    stage = read_json(run_folder / "cvae" / "stage.json") or {}
    now = {
        name: {"hash": trained_hash(read_json(run_folder / place / "stage.json") or {})}
        for name, place in evaluator_places.items()
    }
    others = ["CVAE"] if differ(run.get("cvae"), trained_hash(stage)) else []
    others += other_evaluators(results.get("evaluators") or {}, now)
    if not others and differ((run.get("data") or {}).get("training"), data_hash(stage)):
        others.append("training data")
    if others:
        found.append(
            f"stale: results.json was measured with another {', '.join(others)} than {run_folder.name} holds now; measure again: bash gen_cvae.sh"
        )
    if others := mixed(results, stamp_of(run_folder / "generations.jsonl")):
        found.append(
            f"stale: generations.jsonl was made with another {', '.join(others)} than results.json; measure again: bash gen_cvae.sh"
        )
    return found
