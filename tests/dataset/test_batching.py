"""dataset/batching.py: padding, collation, and the training set of all attributes."""

import inspect

import torch

from dataset.batching import ClassifierCollator, CvaeCollator, cvae_dataset, cvae_rows, pad, pad_inputs
from dataset.dialogues import Dialogue
from dataset.encoding import IGNORED, DialogueTemplate
from dataset.tokenizers import SCRATCH_TEMPLATE


def test_padding_on_either_side():
    assert pad([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert pad([[1, 2, 3], [4]], 9, side="left").tolist() == [[1, 2, 3], [9, 9, 4]]
    batch = pad_inputs(
        [{"input_ids": [5, 0], "token_type_ids": [0, 1]}, {"input_ids": [6], "token_type_ids": [1]}],
        0,
        side="left",
    )
    assert batch["attention_mask"].tolist() == [
        [1, 1],
        [0, 1],
    ]  # a real token that looks like padding stays real
    assert batch["input_ids"].tolist() == [[5, 0], [0, 6]] and batch["token_type_ids"].tolist() == [
        [0, 1],
        [0, 1],
    ]
    assert "token_type_ids" not in pad_inputs([{"input_ids": [5]}], 0)


def test_classifier_batch():
    batch = ClassifierCollator(7)([{"input_ids": [1], "labels": 2}, {"input_ids": [3, 4], "labels": 0}])
    assert batch["input_ids"].tolist() == [[1, 7], [3, 4]] and batch["attention_mask"].tolist() == [
        [1, 0],
        [1, 1],
    ]
    assert batch["labels"].tolist() == [2, 0] and batch["labels"].dtype == torch.long


def test_cvae_batch_token_by_token(word_tokenizer):
    pairs = [
        ([1, -1, -1], True, Dialogue("0", ("a b",), "c", {})),
        ([-1, 1, 0], True, Dialogue("1", ("d",), "e f g", {})),
    ]
    rows = cvae_rows(pairs, word_tokenizer, word_tokenizer, DialogueTemplate(), 32, 32, True)
    batch = CvaeCollator(word_tokenizer.pad_token_id, word_tokenizer.eos_token_id)(rows)
    words = {
        key: [" ".join(word_tokenizer.convert_ids_to_tokens(row)) for row in batch[key]]
        for key in batch
        if key.endswith("_ids")
    }
    assert words["context_ids"] == ["[CLS] a b [SEP]", "[CLS] d [SEP] [PAD]"]
    assert words["posterior_ids"] == ["[CLS] a b [SEP] c [SEP] [PAD]", "[CLS] d [SEP] e f g [SEP]"]
    assert words["decoder_ids"] == [
        "<|endoftext|> a b <|endoftext|> c <|endoftext|>",
        "d <|endoftext|> e f g <|endoftext|>",
    ]
    assert batch["posterior_types"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch["decoder_mask"].tolist() == [[0] + [1] * 5, [1] * 6] and batch["context_mask"].tolist() == [
        [1] * 4,
        [1, 1, 1, 0],
    ]
    assert batch["posterior_mask"].tolist() == [[1] * 6 + [0], [1] * 7]
    c, eos, *efg = word_tokenizer.convert_tokens_to_ids(["c", "<|endoftext|>", "e", "f", "g"])
    assert batch["labels"].tolist() == [[IGNORED] * 4 + [c, eos], [IGNORED] * 2 + efg + [eos]]
    assert batch["response_length"] == 4
    assert batch["targets"].tolist() == [[1, -1, -1], [-1, 1, 0]] and batch["classified"].tolist() == [
        True,
        True,
    ]


def test_prior_encoder_never_sees_the_response(word_tokenizer):
    rows = cvae_rows(
        [([0], True, Dialogue("0", ("a",), "z", {}))],
        word_tokenizer,
        word_tokenizer,
        DialogueTemplate(),
        32,
        32,
        True,
    )
    assert word_tokenizer.convert_tokens_to_ids("z") not in rows[0]["context_ids"]


def test_training_set_holds_every_attribute_by_number(three, encoder_tokenizer, decoder_tokenizer):
    dialogues = {
        a.name: [Dialogue("0", ("Is it?",), f"It is {aspect}.", {a.name: aspect}) for aspect in a.aspects]
        for a in three.attributes
    }
    dataset = cvae_dataset(
        dialogues, three, encoder_tokenizer, decoder_tokenizer, SCRATCH_TEMPLATE, 64, 64, use_context=True
    )
    assert list(dataset["targets"]) == [
        [0, -1, -1],
        [1, -1, -1],
        [-1, 0, -1],
        [-1, 1, -1],
        [-1, -1, 0],
        [-1, -1, 1],
        [-1, -1, 2],
    ]
    assert dataset["length"] == [
        len(p) + len(d) for p, d in zip(dataset["posterior_ids"], dataset["decoder_ids"])
    ]
    assert "calm" in decoder_tokenizer.decode(dataset[4]["decoder_ids"])


def test_a_dialogue_has_all_labels_that_its_tag_names(three, encoder_tokenizer, decoder_tokenizer):
    """Also in an attribute's file; of further dialogues it can be said that the heads do not learn from them."""
    both = Dialogue("0", ("Is it?",), "It is.", {"style": "lyrical", "mood": "sad"})
    dialogues = {"style": [both], "attitude": [], "mood": []}
    how = (encoder_tokenizer, decoder_tokenizer, SCRATCH_TEMPLATE, 64, 64, True)
    dataset = cvae_dataset(dialogues, three, *how, further=[both, both], classify_further=False)
    assert list(dataset["targets"]) == [[1, -1, 2]] * 3
    assert list(dataset["classified"]) == [True, False, False]


def test_collator_gives_what_the_model_takes(batch):
    from model.cvae import MiracleModel

    parameters = inspect.signature(MiracleModel.loss_inputs).parameters
    assert set(batch) == set(parameters) - {"self", "weights", "noise", "rows"}
