"""The hypervolume of a model's frontier: the share of the square of joint accuracy and coherence that its settings dominate.

Zitzler and Thiele (PPSN 1998), with the origin as reference point, by the package `pymoo`, which is optional. One number for all
of a model's settings; it grows with their number, so that models are comparable which were tried at as many strengths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from scoring.bootstrap import SAMPLES, percentiles

REFERENCE = (0.0, 0.0)  # (joint accuracy, coherence) of what is worth nothing


@dataclass(frozen=True)
class Volume:
    """A model's hypervolume.

    Attributes:
        value: of its settings' means over the seeds, in [0, 1].
        settings, seeds: how many there are.
        draws: of the bootstrap over seeds and contexts, [samples]; None where replies were not kept.
    """

    value: float
    settings: int
    seeds: int
    draws: np.ndarray | None

    @property
    def ci95(self) -> list[float] | None:
        """Its 95 % percentile interval."""
        return None if self.draws is None else percentiles(self.draws)


def available() -> bool:
    """Whether `pymoo` is installed."""
    try:
        import pymoo  # noqa: F401
    except ImportError:
        return False
    return True


def indicator() -> Callable[[np.ndarray], float]:
    """Points [N, 2] of (joint accuracy, coherence), higher is better -> the area that they dominate, in [0, 1].

    Raises:
        InputError: without `pymoo`.
    """
    try:
        from pymoo.indicators.hv import HV
    except ImportError as error:
        raise InputError(f"hypervolume needs a package: pip install pymoo ({error})") from None
    volume = HV(ref_point=-np.array(REFERENCE))  # it minimises
    return lambda points: float(volume(-np.asarray(points, dtype=float)))


def hypervolume(points: np.ndarray, sums: np.ndarray | None, seeds: int, seed: int = 0) -> Volume:
    """A model's hypervolume with its bootstrap.

    A resample draws seeds and contexts, both with replacement, and computes every setting's mean anew. Two models with equally
    many seeds and the same contexts are resampled alike, so that their draws can be subtracted.

    Args:
        points: [settings, 2], joint accuracy and coherence, means over the seeds.
        sums: [seeds, settings, contexts, 3], see `experiments.replies.by_context`; None: no interval.
    """
    area = indicator()
    draws = None if sums is None else np.array([area(points) for points in resampled(sums, seed)])
    return Volume(area(points), len(points), seeds, draws)


def resampled(sums: np.ndarray, seed: int, samples: int = SAMPLES) -> list[np.ndarray]:
    """The settings' points [settings, 2] in every resample of seeds and contexts."""
    n_seeds, _, n_contexts, _ = sums.shape
    contexts, seeds = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    points = []
    for _ in range(samples):
        times = np.bincount(contexts.integers(n_contexts, size=n_contexts), minlength=n_contexts)
        runs = np.bincount(seeds.integers(n_seeds, size=n_seeds), minlength=n_seeds)
        total = np.einsum("s,c,skcm->km", runs, times, sums)  # [settings, 3]
        points.append(total[:, :2] / np.maximum(total[:, 2:], 1))
    return points
