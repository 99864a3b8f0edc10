"""Input that is larger than anybody meant: quickly, in little memory, and with the results of small input."""

import random
import time
from itertools import combinations

import pytest
from conftest import TEXTS

from dataset.duplicates import exact_copies, jaccard, shingles, similar_pairs
from dataset.encoding import text_ids
from dataset.tokenizers import LONGEST_WORD, divided, train_decoder_tokenizer, train_encoder_tokenizer

pytestmark = pytest.mark.slow  # whole trainings and commands


@pytest.mark.parametrize("train", [train_encoder_tokenizer, train_decoder_tokenizer])
def test_a_megabyte_without_a_space_is_trained_on_at_once(train, capsys):
    """The vocabulary's training did not end in five minutes."""
    word = "".join(random.Random(0).choices("abcdefghij", k=1_000_000))
    began = time.process_time()
    tokenizer = train([*TEXTS, word], 300)
    assert len(text_ids(tokenizer, [word])) == 1
    assert time.process_time() - began < 20
    assert (
        "a text has 1000000 characters without a space; the vocabulary is trained on pieces of 1000"
        in capsys.readouterr().out
    )


def test_texts_with_words_of_usual_length_are_as_they_were(capsys):
    texts = [*TEXTS, "x" * LONGEST_WORD, "word " * 5000]
    assert list(divided(texts)) == texts and not capsys.readouterr().out


def test_near_duplicates_are_those_of_all_pairs():
    """Compared with every pair, of texts of which some differ by a word or two."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(200)]
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(120)]
    for text in texts[:40]:
        changed = text.split()
        changed[rng.randrange(20)] = "x"
        texts.append(" ".join(changed))
    texts += ["", "a", texts[3]]
    found = similar_pairs(texts, 0.5)
    copies = exact_copies(texts)
    sets = {i: shingles(text) for i, text in enumerate(texts) if i not in copies}
    expected = [
        (i, j, jaccard(sets[i], sets[j])) for i, j in combinations(sets, 2) if jaccard(sets[i], sets[j]) > 0.5
    ]
    assert found == sorted(expected) and len(found) >= 40
    assert copies == {len(texts) - 1: 3}


def test_few_texts_have_no_near_duplicates():
    assert similar_pairs([], 0.5) == [] and similar_pairs(["a b c d"], 0.5) == []
