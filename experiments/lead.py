"""Whether one model is ahead of another at every coherence that both reach: two frontiers with their seeds, and the sentence that says so."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

STEPS = 201  # coherences at which two frontiers are compared, besides those of their settings

Points = list[tuple[float, float]]  # (joint accuracy, coherence) of one seed's settings


class Frontier:
    """One seed's settings as a function: the joint accuracy to be had at a coherence of at least c.

    Between two neighbouring settings that no other dominates it is linear: whoever takes each reply from one of the two at
    random is there. Under the least coherence of these it is constant.
    """

    def __init__(self, points: Points):
        best: Points = []
        for joint, coherence in sorted(points, key=lambda point: (-point[1], -point[0])):
            if not best or joint > best[-1][0]:
                best.append((joint, coherence))
        self.joint = np.array([joint for joint, _ in reversed(best)])
        self.coherence = np.array([coherence for _, coherence in reversed(best)])

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the greatest coherence of its settings."""
        return float(self.coherence[0]), float(self.coherence[-1])

    def at(self, coherence: np.ndarray) -> np.ndarray:
        """Joint accuracy at these coherences, none of which may be over its reach."""
        return np.interp(coherence, self.coherence, self.joint)


@dataclass(frozen=True)
class Lead:
    """How one model's frontiers compare with another's.

    Attributes:
        ours, other: the models' names.
        low, high: the coherences that all seeds of both reach.
        least, most: difference in joint accuracy, ours minus the other's, of the means over the seeds: its extremes in between.
        ahead, behind: stretches of coherence where all of our seeds are over all of the other's, and the reverse.
        seeds: of either.
    """

    ours: str
    other: str
    low: float
    high: float
    least: float
    most: float
    ahead: list[tuple[float, float]]
    behind: list[tuple[float, float]]
    seeds: tuple[int, int]

    @property
    def verdict(self) -> str:
        """``ahead`` or ``behind`` (everywhere), ``ahead in part``, ``behind in part``, ``both`` or ``level``."""
        whole = [(self.low, self.high)]
        if self.ahead == whole:
            return "ahead"
        if self.behind == whole:
            return "behind"
        if self.ahead and self.behind:
            return "both"
        return "ahead in part" if self.ahead else "behind in part" if self.behind else "level"

    @property
    def sentence(self) -> str:
        """What the table says."""
        reach = f"{self.low:.2f} to {self.high:.2f}" if self.high - self.low >= 0.005 else f"{self.high:.2f}"
        gap = f"joint accuracy {self.least:+z.3f} to {self.most:+z.3f}"
        apart = "the seeds' ranges apart" if min(self.seeds) > 1 else "of one seed, so without a range"
        if self.verdict in ("ahead", "behind"):
            word = "ahead of" if self.verdict == "ahead" else "behind"
            return f"{self.ours} is {word} {self.other} at every coherence that both reach ({reach}): {gap}, {apart}."
        parts = [
            f"{word} at {_stretches(stretches)}"
            for word, stretches in (("ahead", self.ahead), ("behind", self.behind))
            if stretches
        ]
        if parts:
            return f"{self.ours} is not ahead of {self.other} at every coherence that both reach ({reach}): {' and '.join(parts)}, {apart}; elsewhere they overlap ({gap})."
        return f"{self.ours} is not ahead of {self.other} at any coherence that both reach ({reach}): the seeds' ranges overlap ({gap})."


def lead(ours: str, other: str, our_seeds: list[Points], other_seeds: list[Points]) -> Lead:
    """Compare two models' frontiers, at the coherences that every seed of both reaches.

    Ahead at a coherence is: the least joint accuracy of our seeds' frontiers there is over the greatest of the other's. Between two
    settings' coherences the difference of these two is concave, so it is positive there where it is at both.

    Args:
        our_seeds, other_seeds: one list of settings' points per seed, none of them empty.
    """
    first, second = [Frontier(points) for points in our_seeds], [Frontier(points) for points in other_seeds]
    high = min(frontier.reach[1] for frontier in (*first, *second))
    starts = (min(frontier.reach[0] for frontier in side) for side in (first, second))
    low = min(high, max(starts))
    inner = np.concatenate([f.coherence for f in (*first, *second)] + [np.linspace(low, high, STEPS)])
    grid = np.unique(inner[(inner >= low) & (inner <= high)])
    a = np.stack([frontier.at(grid) for frontier in first])
    b = np.stack([frontier.at(grid) for frontier in second])
    gap = a.mean(axis=0) - b.mean(axis=0)
    return Lead(
        ours,
        other,
        float(low),
        float(high),
        float(gap.min()),
        float(gap.max()),
        stretches_of(grid, a.min(axis=0) > b.max(axis=0)),
        stretches_of(grid, b.min(axis=0) > a.max(axis=0)),
        (len(first), len(second)),
    )


def stretches_of(grid: np.ndarray, true: np.ndarray) -> list[tuple[float, float]]:
    """The stretches of a rising grid on which something is true, as (first, last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(int)))
    return [(float(grid[begin]), float(grid[end - 1])) for begin, end in list(pairwise(edges))[::2]]


def _stretches(stretches: list[tuple[float, float]]) -> str:
    texts = [f"{low:.2f} to {high:.2f}" if high - low >= 0.005 else f"{high:.2f}" for low, high in stretches]
    return ", ".join(texts)
