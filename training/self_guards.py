"""What is watched while a model learns from its own replies: control by evaluators that took no part, variety, and copies.

Training on chosen replies raises what chose them by construction. Whether anything else improved is for others to say:
evaluators that neither wrote nor chose (`scoring.scorer`), distinct-2, which falls where the model narrows, and the share of
replies that stand word for word among the training replies, which rises where it repeats what it was taught.
"""

from pathlib import Path

import numpy as np
import torch

from common.devices import release_memory
from common.errors import InputError
from common.jsonl import read_json, write_json, write_jsonl
from common.provenance import fingerprint
from common.schema import Schema, target_name
from dataset.dialogues import every_nth, read_attribute_dialogues
from generation.generator import ReplyGenerator
from generation.kept import generations_of, request_hash
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from scoring.columns import Gatherer
from scoring.results import measure
from scoring.scorer import Scorer
from scoring.systems import evaluator_folders
from scoring.text_metrics import distinct
from training.self_written import SelfWritten, Target, normalised

SAMPLE = 512  # of the accepted replies, evenly spread, that evaluators score


def evaluators_of(folders: list[Path | None], schema: Schema) -> Path | None:
    """The first of the runs that has all evaluators; None where none has."""
    places = evaluator_folders(schema.names).values()
    return next(
        (
            folder
            for folder in folders
            if folder is not None and all((folder / name / "config.json").is_file() for name in places)
        ),
        None,
    )


class Evaluation:
    """Evaluators that took no part, or none of them.

    Attributes:
        hash: of the evaluators; None where there are none.
    """

    def __init__(self, folder: Path | None, schema: Schema, device: torch.device):
        self.schema = schema
        self.scorer = Scorer(folder, schema, device) if folder is not None else None
        self.hash = self.scorer.hash if self.scorer else None

    def numbers(self, rows: list[dict]) -> dict[str, float | None]:
        """Joint and mean accuracy and coherence of generations, which are scored in place; empty without evaluators."""
        if self.scorer is None or not rows:
            return {}
        self.scorer.score(rows)
        gatherer = Gatherer(self.schema)
        gatherer.add(rows)
        m = measure(gatherer.finish())
        return {name: m[name] for name in ("accuracy_joint", "accuracy_mean", "nli")}


def distinct2(replies: list[tuple[Target, str]], most: int) -> float | None:
    """Mean over the targets of distinct-2 among at most so many replies each, since it falls as replies are added."""
    by_target: dict[str, list[str]] = {}
    for target, reply in replies:
        by_target.setdefault(target_name(target), []).append(reply)
    values = [distinct(every_nth(some, most), 2) for some in by_target.values()]
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def reused(replies: list[str], known: set[str]) -> float | None:
    """The share of replies whose words, spaces and capitals aside, are those of a known one; None where there are none."""
    if not replies:
        return None
    return round(sum(normalised(reply) in known for reply in replies) / len(replies), 4)


def training_replies(schema: Schema) -> set[str]:
    """The normalised replies of all training dialogues of the schema, the earlier ones in their contexts included."""
    dialogues = read_attribute_dialogues(schema, "train").values()
    return {normalised(reply) for some in dialogues for d in some for reply in (*d.context[1::2], d.reply)}


def of_accepted(
    accepted: list[SelfWritten], real: set[str], evaluation: Evaluation, contexts: int
) -> dict[str, float | int | None]:
    """The guard's numbers of the replies that are to be trained on.

    Returns:
        ``distinct2``, ``reused_real``, and of an evenly spread sample by the evaluators ``accuracy_joint``, ``accuracy_mean``, ``nli``.
    """
    sample = every_nth(accepted, SAMPLE)
    requests = [Request(str(number), one.context, one.target) for number, one in enumerate(sample)]
    return {
        "distinct2": distinct2([(one.target, one.response) for one in accepted], contexts),
        "reused_real": reused([one.response for one in accepted], real),
        **evaluation.numbers(generations_of(requests, [one.response for one in sample], 0)),
    }


def dev_requests(schema: Schema, contexts: int) -> list[Request]:
    """All combinations for so many dev contexts, an equal share of every attribute's."""
    share = -(-contexts // len(schema.names))
    different: dict[tuple[str, ...], None] = {}
    for dialogues in read_attribute_dialogues(schema, "dev").values():
        own = list(dict.fromkeys(dialogue.context for dialogue in dialogues))
        different |= dict.fromkeys(every_nth(own, share))
    return [
        Request(str(number), context, target)
        for number, context in enumerate(every_nth([*different], contexts))
        for target in schema.combinations()
    ]


def of_model(
    round_folder: Path, folder: Path, cvae: str | None, requests: list[Request], control: ControlArguments, how: DecodingArguments,
    real: set[str], written: set[str], evaluation: Evaluation, schema: Schema, device: torch.device,
) -> dict[str, float | int | None]:  # fmt: skip
    """The guard's numbers of a CVAE: one candidate to each dev request, with control.

    They are kept in ``<round_folder>/dev.json``, the scored replies beside it in ``round-<number>-dev.jsonl``, and found again for the same CVAE,
    requests, options and evaluators.

    Returns:
        ``heads_probability`` (of all aspects together by the model's own heads, mean over replies), ``distinct2``, ``reused_real``,
        ``reused_written``, ``replies``, and by the evaluators ``accuracy_joint``, ``accuracy_mean``, ``nli``.
    """
    generator = ReplyGenerator(folder, device, schema, how.precision)
    settings = {
        "requests": request_hash(generator, folder, requests, control, how, cvae),
        "evaluators": evaluation.hash,
        "known": [sorted(real), sorted(written)],
    }
    key = fingerprint(settings, [])
    before = read_json(round_folder / "dev.json") or {}
    if before.get("fingerprint") == key and isinstance(before.get("numbers"), dict):
        return before["numbers"]
    replies = generator.write(requests, control, how).texts
    chances = generator.attribute_scores(requests, replies, how.batch_size).exp()
    rows = generations_of(requests, replies, control.seed, cvae)
    del generator
    release_memory()
    pairs = [(request.target, reply) for request, reply in zip(requests, replies)]
    contexts = len({request.context for request in requests})
    numbers: dict[str, float | int | None] = {
        "heads_probability": round(float(chances.mean()), 4),
        "distinct2": distinct2(pairs, contexts),
        "reused_real": reused(replies, real),
        "reused_written": reused(replies, written),
        "replies": len(replies),
        **evaluation.numbers(rows),
    }
    write_jsonl(round_folder / f"{round_folder.name}-dev.jsonl", rows)
    write_json(round_folder / "dev.json", {"fingerprint": key, "numbers": numbers})
    return numbers


def check_evaluators(folder: Path, schema: Schema) -> Path:
    """A run's folder with all evaluators; raises `InputError` for one without."""
    if evaluators_of([folder], schema) is None:
        raise InputError(
            f"--evaluators {folder}: expected a run or release with classifier/ and nli/ for {', '.join(schema.names)}"
        )
    return folder
