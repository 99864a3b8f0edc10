"""MinHash must find what comparing all pairs finds."""

import itertools
import random

import pytest

from dataset.duplicates import exact_copies, jaccard, normalised, shingles, similar_pairs


def test_shingles_are_lower_cased_word_trigrams():
    assert shingles("The cat, the CAT sat.") == {
        ("the", "cat", "the"),
        ("cat", "the", "cat"),
        ("the", "cat", "sat"),
    }
    assert shingles("Don't go!") == {("don't", "go")}  # too short for a trigram: one shingle of its own
    assert shingles("...") == {()}


def test_jaccard_by_hand():
    assert jaccard(shingles("a b c d"), shingles("a b c e")) == 1 / 3


def test_exact_copies_ignore_case_spaces_and_punctuation():
    assert normalised("  Yes,  it IS. ") == "yes it is"
    assert exact_copies(["Yes, it is.", "no", "yes it  is", "YES it is!"]) == {2: 0, 3: 0}


def test_similar_pairs_are_those_of_comparing_everything():
    rng = random.Random(5)
    texts = []
    for _ in range(120):
        words = [f"w{rng.randrange(60)}" for _ in range(rng.randint(2, 25))]
        texts.append(" ".join(words))
        for _ in range(rng.randrange(3)):  # near copies with one to four words changed
            near = list(words)
            for position in rng.sample(range(len(near)), min(len(near), rng.randint(1, 4))):
                near[position] = "changed"
            texts.append(" ".join(near))
    copies = exact_copies(texts)
    kept = [i for i in range(len(texts)) if i not in copies]
    expected = [
        (i, j, s)
        for i, j in itertools.combinations(kept, 2)
        if (s := jaccard(shingles(texts[i]), shingles(texts[j]))) > 0.6
    ]
    assert len(expected) > 10
    assert similar_pairs(texts, 0.6) == expected


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
def test_a_threshold_outside_0_and_1_is_refused(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        similar_pairs(["a b c"], threshold)
