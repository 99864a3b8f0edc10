"""Bootstrap intervals over contexts: replies to one context are drawn together, because they are not independent."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

SAMPLES = 1000
FEW_CONTEXTS = 10  # intervals over fewer are too narrow to be relied on
LEVELS = (2.5, 97.5)  # per cent: 95 % percentile intervals


class Bootstrap:
    """Resamples of groups, the same for every statistic, so that statistics and systems can be compared pairwise.

    Everything that is a function of sums over replies (means, ratios, corpus BLEU, perplexity) is computed from the
    groups' sums, so that the cost does not depend on the number of replies.

    Args:
        groups: the group of each reply, any hashable (its context).
        samples: number of resamples.
        seed: of the resamples; two objects with equal groups in equal order and the same seed draw the same.
    """

    def __init__(self, groups: Sequence[Hashable], samples: int = SAMPLES, seed: int = 0):
        numbers: dict[Hashable, int] = {}
        self.group = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
        self.n_groups, self.samples, self.seed = len(numbers), samples, seed

    def resampled_sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the replies of each resample.

        Args:
            values: [N, M], one row per reply.

        Returns:
            [samples, M].
        """
        sums = np.empty((self.n_groups, values.shape[1]))  # [G, M]
        for number, column in enumerate(values.T):
            sums[:, number] = np.bincount(self.group, weights=column, minlength=self.n_groups)
        rng = np.random.default_rng(self.seed)
        drawn = np.empty((self.samples, values.shape[1]))
        for row in range(self.samples):
            times = np.bincount(rng.integers(self.n_groups, size=self.n_groups), minlength=self.n_groups)
            drawn[row] = times @ sums
        return drawn

    def intervals(
        self, values: np.ndarray, statistics: dict[str, Callable[[np.ndarray], np.ndarray]]
    ) -> dict[str, list[float]]:
        """95 % percentile intervals of functions of sums.

        Args:
            values: [N, M] per-reply values.
            statistics: name -> function of the sums [..., M] -> [...].

        Returns:
            name -> [low, high]; empty with fewer than two groups, and without a statistic that is NaN in a resample.
        """
        if self.n_groups < 2:
            return {}
        drawn = self.resampled_sums(values)
        return {
            name: interval
            for name, statistic in statistics.items()
            if (interval := percentiles(statistic(drawn))) is not None
        }


def percentiles(draws: np.ndarray) -> list[float] | None:
    """[2.5 %, 97.5 %] of draws; None where one of them is not a number."""
    if np.isnan(draws).any():
        return None
    low, high = np.percentile(draws, LEVELS)
    return [float(low), float(high)]


def mean_of(column: int, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The statistic sums[column] / sums[count], NaN where the count is 0."""

    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(sums[..., count] > 0, sums[..., column] / sums[..., count], np.nan)

    return statistic
