"""dataset/tokenizers.py: tokenizers trained from scratch."""

import pytest
from conftest import TEXTS
from transformers import AutoTokenizer

from dataset.encoding import encode_contexts, encode_for_decoder, text_ids
from dataset.tokenizers import SCRATCH_TEMPLATE, train_decoder_tokenizer, train_encoder_tokenizer


def test_special_tokens_have_ids_of_their_own(encoder_tokenizer, decoder_tokenizer):
    e, d = encoder_tokenizer, decoder_tokenizer
    assert len({e.pad_token_id, e.unk_token_id, e.cls_token_id, e.sep_token_id} - {None}) == 4
    marks = [
        d(mark, add_special_tokens=False)["input_ids"]
        for mark in (SCRATCH_TEMPLATE.user_prefix, SCRATCH_TEMPLATE.assistant_prefix)
    ]
    assert [len(ids) for ids in marks] == [1, 1]
    assert (
        len({d.eos_token_id, d.pad_token_id, marks[0][0], marks[1][0]} - {None}) == 4
        and d.bos_token_id == d.eos_token_id
    )


def test_vocabulary_is_learned_up_to_its_size(encoder_tokenizer, decoder_tokenizer):
    assert len(encoder_tokenizer) <= 200 and len(decoder_tokenizer) <= 320
    assert len(text_ids(decoder_tokenizer, [" bread"])[0]) < len(" bread")  # merges were learned
    assert len(train_decoder_tokenizer(TEXTS, 290)) < len(decoder_tokenizer)


def test_decoder_text_comes_back_whatever_it_is(decoder_tokenizer):
    for text in (
        " Keep the dough warm, and wait.",
        " naïve Ünïcode 日本語 \U0001f35e",
        " <reply> <eos>",
        " two  spaces",
    ):
        assert decoder_tokenizer.decode(text_ids(decoder_tokenizer, [text])[0]) == text


def test_encoder_reads_lower_case(encoder_tokenizer):
    upper, lower = text_ids(encoder_tokenizer, ["BREAD, the Dough", "bread, the dough"])
    assert upper == lower and encoder_tokenizer.unk_token_id not in lower


def test_saved_tokenizers_are_the_same(tmp_path, encoder_tokenizer, decoder_tokenizer):
    contexts, responses = [("My <user> bread?", "Yes [SEP] no.", "Is it?")], ["It <eos> is."]
    for name, tokenizer, encode in (
        ("encoder", encoder_tokenizer, lambda t: encode_contexts(t, contexts, responses, 32)),
        (
            "decoder",
            decoder_tokenizer,
            lambda t: encode_for_decoder(t, SCRATCH_TEMPLATE, contexts, responses, 64),
        ),
    ):
        tokenizer.save_pretrained(tmp_path / name)
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        assert encode(loaded) == encode(tokenizer)
        assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            len(tokenizer),
        )


@pytest.mark.parametrize("train", [train_encoder_tokenizer, train_decoder_tokenizer])
def test_training_is_repeatable(train):
    """The WordPiece trainer numbers its ``##`` letters in the order of a hash map, and breaks ties by these numbers."""
    vocabularies = [train(TEXTS, 300).get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
