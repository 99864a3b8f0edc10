"""What a bag of words can predict, on texts where the answer is known."""

import random

import numpy as np
import pytest

from dataset.separability import (
    cross_fitted_probabilities,
    give_away_words,
    held_out_accuracy,
    held_out_probabilities,
)


def texts(marker: bool, number: int = 200, seed: int = 0) -> tuple[list[str], list[int]]:
    """Random words; with `marker`, every text of aspect 1 has the word "indeed"."""
    rng = random.Random(seed)
    rows = [
        (
            " ".join(f"w{rng.randrange(40)}" for _ in range(12)) + (" indeed" if marker and i % 2 else ""),
            i % 2,
        )
        for i in range(number)
    ]
    return [text for text, _ in rows], [label for _, label in rows]


def test_a_marker_is_heard_and_noise_is_not():
    assert held_out_accuracy(texts(True), texts(True, seed=1)) > 0.97
    assert held_out_accuracy(texts(True), texts(True, seed=1), features=1) == 1.0
    assert 0.3 < held_out_accuracy(texts(False), texts(False, seed=1)) < 0.7


def test_accuracy_is_the_mean_over_aspects():
    train = (["good day", "bad day"] * 5, [1, 0] * 5)
    held_out = (["good", "good", "good", "good"], [1, 1, 1, 0])  # 3 of 3 of aspect 1, 0 of 1 of aspect 0
    assert held_out_accuracy(train, held_out) == 0.5


def test_nothing_to_compare_gives_none():
    assert held_out_accuracy((["a", "b"], [0, 0]), (["a"], [0])) is None
    assert held_out_accuracy((["...", "!"], [0, 1]), (["a"], [0])) is None
    assert held_out_accuracy(texts(True), ([], [])) is None


def test_give_away_words_by_hand_and_with_uneven_aspects():
    """ "sun" stands in 2 of 4 texts of aspect 0 and 1 of 8 of aspect 1: precision 0.5 / (0.5 + 0.125) = 0.8."""
    rows = ["sun one", "sun two", "three", "four", "sun five", *["six"] * 7]
    found = {word.word: word for word in give_away_words(rows, [0] * 4 + [1] * 8)}
    assert (
        found["sun"].aspect == 0
        and found["sun"].precision == pytest.approx(0.8)
        and found["sun"].recall == 0.5
    )
    assert found["six"].aspect == 1 and found["six"].recall == pytest.approx(7 / 8)
    assert "five" not in found  # precision 1, but in one reply of eight
    assert give_away_words(["...", "!"], [0, 1]) == [] and give_away_words(["a b"], [0]) == []


def test_cross_fitted_probabilities_find_the_mislabelled_row():
    rows, labels = texts(True)
    labels[7] = 0  # it says "indeed"
    own = cross_fitted_probabilities(rows, labels)
    assert own.shape == (200,) and np.argmin(own) == 7 and own[7] < 0.5


def test_held_out_probabilities_are_the_training_rows_verdict():
    rows, labels = texts(True)
    own = held_out_probabilities((rows, labels), (["w1 w2 indeed", "w1 w2 indeed"], [1, 0]))
    assert own[0] > 0.7 and own.sum() == pytest.approx(1.0)


def test_cross_fitting_needs_a_row_per_fold():
    with pytest.raises(ValueError):
        cross_fitted_probabilities(["a", "b"], [0, 1])
