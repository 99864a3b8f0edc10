"""What a metric of the results is: how it is called and written, and of a text metric how it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class OfReply(Protocol):
    """A value per reply; the results have its mean with an interval, and differences between systems."""

    def __call__(self, row: dict) -> float | None:
        """The value of a checked generation (`scoring.generations`); None where the metric does not apply to it."""
        ...


class OfReplies(Protocol):
    """One value of all replies together, which has no interval."""

    def __call__(self, replies: Sequence[str], seed: int) -> float | None:
        """The value; None where there is none. `seed` is of whatever it draws."""
        ...


@dataclass(frozen=True)
class Metric:
    """One key of an M of the results.

    Attributes:
        title: the column's heading.
        better: ``higher``, ``lower``, or None where neither is (a length).
        form: Python format of a value.
        meaning: one sentence, with the source.
        by_evaluators: the numbers rest on trained evaluators.
        of_reply, of_replies: of a text metric, what computes it; None where `scoring.columns` or `scoring.results` do.
    """

    key: str
    title: str
    better: str | None
    form: str
    meaning: str
    by_evaluators: bool = False
    of_reply: OfReply | None = None
    of_replies: OfReplies | None = None
