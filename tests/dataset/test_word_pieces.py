"""dataset/word_pieces.py: ids put together from words are those of the text read as a whole."""

import copy
import random

import pytest
from conftest import TEXTS

from dataset import word_pieces
from dataset.encoding import text_ids
from dataset.word_pieces import known_words, reads_words_apart

LETTERS = (
    "abcdeXYZ  \t\n\r.,!?'-#0\x00\x1c\x85\xad\u00a0\u0301\u0300\u200b\u200d\u2028\u3000\ufeff\ufffd"
    "\u00e9\u00c9\u0130\u03a3\u03c3\u65e5\u672c\u0e01\uac00\U0001f35e\U0001f468\u093f\u0915\ufb01"
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(word_pieces, "_known", word_pieces.WeakKeyDictionary())


def whole(tokenizer, texts):
    """Ids of the texts as the tokenizer reads them."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def texts_of(seed: int) -> list[str]:
    """Texts with letters, marks, spaces and control characters of all kinds, and with what looks like special tokens."""
    draw = random.Random(seed)
    parts = [*LETTERS, "[SEP]", "[CLS]", "##", " ", " ", "bread", "dough", "q" * 70, "w" * 120]
    return ["".join(draw.choices(parts, k=draw.randint(0, 40))) for _ in range(60)] + list(TEXTS)


@pytest.mark.parametrize("seed", range(4))
def test_ids_are_those_of_the_whole_text(encoder_tokenizer, seed):
    texts = texts_of(seed)
    for _ in range(2):  # the second time from memory
        assert text_ids(encoder_tokenizer, texts) == whole(encoder_tokenizer, texts)
    kept = known_words(encoder_tokenizer)
    assert len(kept) > 20 and max(map(len, kept)) <= word_pieces.LONGEST


def test_few_words_are_kept(encoder_tokenizer, monkeypatch):
    monkeypatch.setattr(word_pieces, "MOST", 50)
    for seed in range(3):
        texts = texts_of(seed)
        assert text_ids(encoder_tokenizer, texts) == whole(encoder_tokenizer, texts)
        assert len(known_words(encoder_tokenizer)) <= 50


def test_no_list_that_is_given_out_is_one_that_is_kept(encoder_tokenizer):
    text_ids(encoder_tokenizer, ["bread"])[0].append(0)
    assert text_ids(encoder_tokenizer, ["bread"]) == whole(encoder_tokenizer, ["bread"])


def test_other_tokenizers_are_read_as_a_whole(decoder_tokenizer, word_tokenizer):
    assert not reads_words_apart(decoder_tokenizer)
    assert text_ids(decoder_tokenizer, list(TEXTS)) == whole(decoder_tokenizer, list(TEXTS))
    assert text_ids(word_tokenizer, ["a b"]) == whole(word_tokenizer, ["a b"])


def test_tokens_that_are_added_count_from_then_on(encoder_tokenizer):
    tokenizer = copy.deepcopy(encoder_tokenizer)
    assert known_words(tokenizer) is not None
    tokenizer.add_tokens(["warm dough"])
    assert known_words(tokenizer) is None
    assert text_ids(tokenizer, ["a warm dough"]) == whole(tokenizer, ["a warm dough"])
