"""Frontiers: areas and leads with known answers, and the sentences that a table begins with."""

import numpy as np
import pytest

from experiments.hypervolume import hypervolume, resampled
from experiments.lead import Frontier, lead, stretches_of
from experiments.replies import ReplyScores, by_context


def test_the_area_of_three_settings():
    """0.2 x 0.9 + 0.3 x 0.5 + 0.4 x 0.1: a staircase; a dominated setting and one worth nothing add nothing."""
    pytest.importorskip("pymoo")
    points = np.array([[0.5, 0.5], [0.2, 0.9], [0.9, 0.1], [0.1, 0.1], [0.9, 0.0]])
    assert hypervolume(points, None, 1).value == pytest.approx(0.2 * 0.9 + 0.3 * 0.5 + 0.4 * 0.1)
    assert hypervolume(np.array([[1.0, 1.0]]), None, 1).ci95 is None


def test_its_interval_covers_seeds_and_contexts():
    """Replies that are all alike have an interval of no width; seeds that differ alone give one as wide as they are apart."""
    pytest.importorskip("pymoo")
    alike = np.zeros((2, 1, 6, 3)) + [0.5, 0.8, 1.0]
    assert hypervolume(np.array([[0.5, 0.8]]), alike, 2).ci95 == pytest.approx([0.4, 0.4])
    apart = alike.copy()
    apart[1, ..., 0] = 0.7
    low, high = hypervolume(np.array([[0.6, 0.8]]), apart, 2).ci95
    assert (low, high) == pytest.approx((0.4, 0.56))


def test_a_resample_weighs_contexts_by_their_replies():
    sums = np.zeros((1, 1, 2, 3))
    sums[0, 0] = [[3.0, 1.5, 3.0], [0.0, 0.5, 1.0]]  # three replies, all right; one, wrong
    drawn = {tuple(np.round(points[0], 6)) for points in resampled(sums, seed=0, samples=200)}
    assert drawn == {(1.0, 0.5), (0.0, 0.5), (0.75, 0.5)}


def test_a_frontier_is_linear_between_its_settings_and_flat_below():
    frontier = Frontier([(0.5, 0.9), (0.9, 0.5), (0.45, 0.6), (0.4, 0.8)])  # the last two are dominated
    assert frontier.reach == (0.5, 0.9)
    assert frontier.at(np.array([0.2, 0.5, 0.7, 0.9])) == pytest.approx([0.9, 0.9, 0.7, 0.5])


def test_ahead_everywhere_with_the_seeds_apart():
    found = lead(
        "ours", "other", [[(0.9, 0.5), (0.5, 0.9)], [(0.8, 0.5), (0.4, 0.9)]], [[(0.7, 0.4), (0.3, 0.8)]] * 2
    )
    assert (found.low, found.high) == (0.5, 0.8) and found.verdict == "ahead"
    assert (found.least, found.most) == pytest.approx((0.25, 0.25))
    assert found.sentence == (
        "ours is ahead of other at every coherence that both reach (0.50 to 0.80): joint accuracy +0.250 to +0.250, the seeds' ranges apart."
    )
    back = lead(
        "other", "ours", [[(0.7, 0.4), (0.3, 0.8)]] * 2, [[(0.9, 0.5), (0.5, 0.9)], [(0.8, 0.5), (0.4, 0.9)]]
    )
    assert back.verdict == "behind" and "other is behind ours at every coherence" in back.sentence


def test_a_crossing_is_said_first():
    """The frontiers cross at a coherence of 0.7."""
    found = lead("ours", "other", [[(0.9, 0.5), (0.5, 0.9)]] * 2, [[(0.8, 0.5), (0.6, 0.9)]] * 2)
    assert found.verdict == "both"
    (ahead,), (behind,) = found.ahead, found.behind
    assert ahead[0] == 0.5 and ahead[1] == pytest.approx(0.7, abs=0.003)
    assert behind[1] == 0.9 and behind[0] == pytest.approx(0.7, abs=0.003)
    assert found.sentence.startswith(
        "ours is not ahead of other at every coherence that both reach (0.50 to 0.90): ahead at 0.50 to 0.70 and behind"
    )


def test_seeds_that_overlap_are_level():
    found = lead("ours", "other", [[(0.9, 0.5)], [(0.5, 0.5)]], [[(0.7, 0.5)], [(0.6, 0.5)]])
    assert (
        found.verdict == "level"
        and "not ahead of other at any coherence that both reach (0.50)" in found.sentence
    )


def test_a_method_of_one_setting_is_compared_at_its_coherence():
    found = lead("ours", "free", [[(0.9, 0.5), (0.5, 0.95)]], [[(0.1, 0.9)]])
    assert (found.low, found.high) == (0.9, 0.9) and found.verdict == "ahead"
    assert "of one seed, so without a range" in found.sentence
    out_of_reach = lead("ours", "free", [[(0.9, 0.5), (0.5, 0.8)]], [[(0.1, 0.9)]])
    assert out_of_reach.high == 0.8 and out_of_reach.least == pytest.approx(0.4)


def test_stretches():
    grid = np.arange(6.0)
    assert stretches_of(grid, np.array([True, True, False, True, False, False])) == [(0.0, 1.0), (3.0, 3.0)]
    assert stretches_of(grid, np.zeros(6, dtype=bool)) == []


def test_sums_by_context_leave_strangers_out():
    scores = ReplyScores(
        [("a",), ("b",), ("a",), ("x",)],
        ["t"] * 4,
        np.array([1.0, 0.0, 1.0, 1.0]),
        np.array([0.5, 0.25, 1.0, 1.0]),
    )
    assert by_context(scores, {("a",): 0, ("b",): 1}).tolist() == [[2.0, 1.5, 2.0], [0.0, 0.25, 1.0]]
