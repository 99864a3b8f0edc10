"""What a language model's ratings come to: accuracy and fit with intervals, and agreement with the classifiers and with people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import pearsonr, spearmanr

from common.schema import Schema
from scoring.bootstrap import Bootstrap, mean_of
from scoring.judge_answers import JudgeRating
from scoring.judge_questions import FIT, LEVELS
from scoring.sheet import Rating as SheetRating
from scoring.sheet import kappa

MARGIN = 0.1  # two replies whose ratings differ by less are a tie for the judge
TOP_LEVEL = max(map(int, LEVELS))
SHEET_CRITERIA = {
    "personality": "wanted",
    "coherence": FIT,
}  # a sheet's criterion -> what the judge says of it


@dataclass(frozen=True)
class Judged:
    """A reply with what the judge says of it.

    Attributes:
        name: of `scoring.judge_questions.reply_ids`.
        row: the checked generation.
        aspects: attribute -> aspect -> probability, the mean over the orders; without attributes that were not answered.
        fit: expected level, in [0, 1]; None where it was not asked or not answered.
    """

    name: str
    row: dict
    aspects: dict[str, dict[str, float]]
    fit: float | None

    @property
    def wanted(self) -> float | None:
        """Mean probability of the aspects asked for; None where one of them is unknown."""
        target = self.row["target"]
        if not target or any(name not in self.aspects for name in target):
            return None
        return float(np.mean([self.aspects[name][aspect] for name, aspect in target.items()]))

    def predicted(self, attribute: str) -> str | None:
        """The likeliest aspect; None where it was not answered."""
        chances = self.aspects.get(attribute)
        return max(chances, key=chances.__getitem__) if chances else None

    def record(self) -> dict:
        """A line of ``judged.jsonl``."""
        keys = ("id", "context", "target", "response")
        return {key: self.row[key] for key in keys} | {"judge": self.aspects, "judge_fit": self.fit}


def judged(
    rows: Sequence[dict], names: Sequence[str], ratings: Sequence[JudgeRating], schema: Schema
) -> list[Judged]:
    """The rows with their ratings, answers in several orders averaged."""
    of_reply: dict[tuple[str, str], list[dict[str, float]]] = {}
    for rating in ratings:
        if rating.probabilities is not None:
            place = (rating.question.id, rating.question.subject)
            of_reply.setdefault(place, []).append(rating.probabilities)
    found = []
    for name, row in zip(names, rows):
        aspects = {
            a.name: {x: float(np.mean([p[x] for p in given])) for x in a.aspects}
            for a in schema.attributes
            if (given := of_reply.get((name, a.name)))
        }
        levels = of_reply.get((name, FIT))
        fit = (
            float(np.mean([sum(int(x) * p for x, p in one.items()) for one in levels])) / TOP_LEVEL
            if levels
            else None
        )
        found.append(Judged(name, row, aspects, fit))
    return found


def scores(replies: Sequence[Judged], schema: Schema) -> dict[str, dict]:
    """Accuracy on each attribute named, on all of them together, probability and fit: ``{"value", "ci95", "n"}``, intervals over contexts."""

    def right(reply: Judged, names: Sequence[str]) -> float | None:
        target = reply.row["target"]
        if not names or any(name not in target or reply.predicted(name) is None for name in names):
            return None
        return float(all(reply.predicted(name) == target[name] for name in names))

    measures: dict[str, Callable[[Judged], float | None]] = {
        f"accuracy.{name}": lambda reply, name=name: right(reply, [name]) for name in schema.names
    }
    measures |= {
        "accuracy_joint": lambda reply: right(reply, list(reply.row["target"])),
        "probability_mean": lambda reply: reply.wanted,
        FIT: lambda reply: reply.fit,
    }
    return {name: _mean(replies, of) for name, of in measures.items()}


def _mean(replies: Sequence[Judged], of: Callable[[Judged], float | None]) -> dict:
    known = [(tuple(reply.row["context"]), value) for reply in replies if (value := of(reply)) is not None]
    if not known:
        return {"value": None, "ci95": None, "n": 0}
    values = np.array([[value, 1.0] for _, value in known])
    interval = Bootstrap([context for context, _ in known]).intervals(values, {"x": mean_of(0, 1)}).get("x")
    return {"value": float(values[:, 0].mean()), "ci95": interval, "n": len(known)}


def with_classifiers(replies: Sequence[Judged], schema: Schema) -> dict[str, dict]:
    """How far judge and evaluators agree on the replies that both have scored.

    Returns:
        By attribute ``same`` (share of equal aspects), ``kappa`` (Cohen's) and ``correlation`` (Pearson, of the probability of the
        aspect asked for, else of the first one); as ``fit`` Pearson's and Spearman's correlation with the coherence model's
        probability. None for what cannot be computed.
    """
    found = {}
    for attribute in schema.attributes:
        name = attribute.name
        both = [r for r in replies if r.predicted(name) and (r.row["predicted"] or {}).get(name)]
        ours, theirs = [r.predicted(name) for r in both], [r.row["predicted"][name] for r in both]
        asked = [r.row["target"].get(name, attribute.aspects[0]) for r in both]
        pairs = [
            (r.aspects[name][aspect], r.row["probabilities"][name][aspect]) for r, aspect in zip(both, asked)
        ]
        found[name] = {
            "n": len(both),
            "same": float(np.mean([a == b for a, b in zip(ours, theirs)])) if both else None,
            "kappa": kappa(ours, theirs) if both else None,
            "correlation": correlation(pairs),
        }
    pairs = [(r.fit, r.row["nli"]) for r in replies if r.fit is not None and r.row["nli"] is not None]
    found[FIT] = {
        "n": len(pairs),
        "correlation": correlation(pairs),
        "spearman": correlation(pairs, spearmanr),
    }
    return found


def correlation(pairs: Sequence[tuple[float, float]], measure: Callable = pearsonr) -> float | None:
    """A correlation; None of fewer than three pairs, or where one side never varies."""
    if len(pairs) < 3:
        return None
    a, b = np.array(pairs, dtype=float).T
    return None if a.std() == 0 or b.std() == 0 else float(measure(a, b)[0])


def with_people(replies: Sequence[Judged], answers: Sequence[SheetRating]) -> dict[str, dict]:
    """How far the judge prefers the replies that people prefer.

    Args:
        replies: both of every item of a sheet, with ids ``<item>/A`` and ``<item>/B`` in their rows.
        answers: people's, of `scoring.sheet`.

    Returns:
        By criterion ``same``, the share of people's answers (A, B or =) that the judge gives too, where it calls a difference under
        `MARGIN` a tie; ``kappa``, Cohen's over these; ``decided``, the share of people's A and B answers on whose side the judge's
        higher rating is, with ``n_decided``. None for what cannot be computed.
    """
    by_id = {reply.row["id"]: reply for reply in replies}
    found = {}
    for criterion, what in SHEET_CRITERIA.items():
        people, judge, gaps = [], [], []
        for answer in answers:
            sides = [by_id.get(f"{answer.item}/{side}") for side in "AB"]
            values = [getattr(side, what) if side else None for side in sides]
            if answer.criterion != criterion or None in values:
                continue
            gap = values[0] - values[1]
            people.append(answer.choice)
            judge.append("=" if abs(gap) < MARGIN else "A" if gap > 0 else "B")
            gaps.append(gap)
        decided = [(choice == "A") == (gap > 0) for choice, gap in zip(people, gaps) if choice != "=" and gap]
        found[criterion] = {
            "n": len(people),
            "same": float(np.mean([a == b for a, b in zip(people, judge)])) if people else None,
            "kappa": kappa(people, judge) if people else None,
            "n_decided": len(decided),
            "decided": float(np.mean(decided)) if decided else None,
        }
    return found


def first_option(ratings: Sequence[JudgeRating]) -> dict[str, dict[str, float]]:
    """By subject the mean probability of whichever option stood first, beside what it would be without any liking for places."""
    shares: dict[str, list[tuple[float, int]]] = {}
    for rating in ratings:
        if rating.probabilities is not None:
            options = rating.question.options
            shares.setdefault(rating.question.subject, []).append(
                (rating.probabilities[options[0]], len(options))
            )
    return {
        subject: {"share": float(np.mean([share for share, _ in given])), "even": 1 / given[0][1]}
        for subject, given in shares.items()
    }
