"""The numbers of a row: a cell's scored replies in, one flat dict out."""

import numpy as np

from common.schema import Schema, target_name
from dataset.dialogues import every_nth
from scoring.bootstrap import Bootstrap, mean_of
from scoring.columns import Columns, Gatherer
from scoring.results import measure
from scoring.text_metrics import distinct

INTERVALS = ("accuracy_joint", "nli", "second_accuracy_joint", "both_joint")
OVERALL = (
    "probability_mean",
    "ppl",
    "self_bleu",
    "repetition",
    "length",
    "empty",
)  # as in scoring.metrics.METRICS
COST = (
    "seconds_per_1000",
    "seconds_training",
    "memory_generation",
    "memory_training",
)  # seconds to write 1,000 replies and to train; most megabytes held meanwhile


def seconds_per_1000(seconds: float, replies: int) -> float | None:
    """Seconds for 1,000 replies: latents, decoding and choosing together, without scoring."""
    return round(1000 * seconds / replies, 2) if replies else None


UNSEEN = ("seen_joint", "unseen_joint", "unseen_drop", "unseen_drop_low", "unseen_drop_high")


def unseen(rows: list[dict], held_out: tuple[str, ...]) -> dict[str, float | None]:
    """`UNSEEN` of a cell with held-out combinations: joint accuracy on seen and on unseen ones, and what is lost from the one to
    the other, with a 95 % bootstrap interval over contexts.

    Args:
        rows: scored generations, whose targets name every attribute.
        held_out: the unseen combinations, as `common.schema.target_name` writes them.
    """
    joint = np.array(
        [all(row["predicted"][name] == aspect for name, aspect in row["target"].items()) for row in rows]
    )
    values = parted(joint.astype(float), [target_name(row["target"]) for row in rows], held_out)
    total = values.sum(axis=0)
    interval = (
        Bootstrap([tuple(row["context"]) for row in rows])
        .intervals(values, {"drop": difference})
        .get("drop", (None, None))
    )
    numbers = (mean_of(0, 1)(total), mean_of(2, 3)(total), difference(total))
    return dict(zip(UNSEEN, (*map(float, numbers), *interval)))


def columns_of(schema: Schema) -> list[str]:
    """The columns that `measured` fills, in order."""
    names = [
        "accuracy_mean",
        "accuracy_joint",
        *(f"{name}.accuracy" for name in schema.names),
        "nli",
        "mauve",
        "distinct2",
        *OVERALL,
    ]
    names += ["second_accuracy_mean", "second_accuracy_joint", "both_joint"]
    ends = (f"{name}_{end}" for name in INTERVALS for end in ("low", "high"))
    return [*names, *ends, "contexts_n", "replies_n"]


def measured(rows: list[dict], schema: Schema, contexts: int) -> dict[str, float | int | None]:
    """Every number of a cell; None where one does not apply.

    Joint accuracies are given only where every target names every attribute, because right on one aspect is not right on
    all. distinct-2 falls as replies are added, so it is the mean over the targets of at most `contexts` replies each.
    ``second_*`` are the second set's; ``both_joint`` is the share of replies in which both sets predict all aspects. Intervals
    are 95 % bootstrap intervals over contexts.

    Args:
        rows: scored generations (`experiments.evaluators.Evaluators.score`).
        contexts: number of contexts of the experiment.
    """
    gatherer = Gatherer(schema)
    gatherer.add(rows)
    columns = gatherer.finish()
    m = measure(columns)
    numbers: dict = {name: m[name] for name in ("accuracy_mean", "accuracy_joint", "nli", *OVERALL)}
    numbers |= {f"{name}.accuracy": values["accuracy"] for name, values in m["attributes"].items()}
    numbers |= {
        "distinct2": _distinct2(columns, contexts),
        "contexts_n": len(set(columns.context.tolist())),
        "replies_n": len(columns),
    }
    intervals = dict(m["ci95"])
    if "second_predicted" in rows[0]:
        values = np.array([[*_rights(row), 1.0] for row in rows])  # [N, 4]
        names = ("second_accuracy_mean", "second_accuracy_joint", "both_joint")
        numbers |= dict(zip(names, values.mean(axis=0).tolist()))
        intervals |= Bootstrap(columns.context.tolist()).intervals(
            values, {name: mean_of(i, 3) for i, name in enumerate(names)}
        )
    if any(len(row["target"]) < len(schema.names) for row in rows):
        numbers |= dict.fromkeys(("accuracy_joint", "second_accuracy_joint", "both_joint"))
    for name in INTERVALS:
        low, high = intervals.get(name, (None, None)) if numbers.get(name) is not None else (None, None)
        numbers |= {f"{name}_low": low, f"{name}_high": high}
    return numbers


def _distinct2(columns: Columns, contexts: int) -> float | None:
    values = [distinct(every_nth(part.replies, contexts), 2) for part in _by_target(columns)]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _by_target(columns: Columns) -> list[Columns]:
    return [columns.take(np.flatnonzero(columns.target == number)) for number in range(len(columns.targets))]


def _rights(row: dict) -> tuple[float, float, float]:
    """(share of aspects that the second set predicts, whether all of them, whether both sets predict all)."""
    first, second = (
        [row[key][name] == aspect for name, aspect in row["target"].items()]
        for key in ("predicted", "second_predicted")
    )
    return float(np.mean(second)), float(all(second)), float(all(second) and all(first))


def parted(joint: np.ndarray, targets: list[str], held_out: tuple[str, ...]) -> np.ndarray:
    """[N, 4]: joint accuracy and number of replies to seen combinations, and of those to unseen ones."""
    unseen = np.array([target in held_out for target in targets], dtype=float)
    return np.stack([joint * (1 - unseen), 1 - unseen, joint * unseen, unseen], axis=1)


def difference(sums: np.ndarray) -> np.ndarray:
    """Seen minus unseen, of sums of `parted` [..., 4]."""
    return mean_of(0, 1)(sums) - mean_of(2, 3)(sums)
