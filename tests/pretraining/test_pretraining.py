"""pretraining/: what is kept of written dialogues, the vocabularies' marks, what is learned from, and that the shipped bases are whole."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import torch

from dataset.chat_template import template_of
from dataset.encoding import DialogueTemplate, encode_for_decoder
from model.bases import load_decoder, load_decoder_tokenizer, load_encoder, load_tokenizer
from pretraining import cleaning, decoder, encoder, loop, teacher, texts
from pretraining.vocabulary import decoder_tokenizer, dialogue_ids, encoder_tokenizer
from tests.conftest import TEXTS

GOOD = ("My bread did not rise today.", "Keep the dough warm and wait another hour.")
BASE = "dataset/base"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("Bread.", GOOD[1]), "short"),
        ((GOOD[0], "Wait " * 61 + "on."), "long"),
        ((GOOD[0], "Keep the dough warm and"), "unfinished"),
        ((GOOD[0], "Keep the dough <b>warm</b>."), "marks"),
        ((GOOD[0], "As an AI, I can't bake any bread."), "assistant"),
        ((GOOD[0], "The dough is warm, the dough is warm."), "repetition"),
        ((GOOD[0], "My bread did not rise today!"), "echo"),
    ],
)
def test_a_dialogue_is_left_out_for_its_reason(turns, reason):
    counts = Counter()
    assert list(cleaning.clean([turns, GOOD], set(), counts)) == [GOOD]
    assert counts == {reason: 1, "kept": 1}


def test_what_the_held_out_splits_say_is_left_out_wherever_it_stands():
    held_out = set(
        cleaning.windows("wait until the second tide has gone out again, then walk", cleaning.HELD_OUT)
    )
    taken = (GOOD[0], "Best to wait until the second tide has gone out again!")
    counts = Counter()
    assert list(cleaning.clean([taken, GOOD], held_out, counts)) == [GOOD] and counts["held out"] == 1


def test_nothing_is_kept_twice_and_a_context_may_have_several_replies():
    second = (GOOD[0], "The oven was too cold, so try again on Sunday morning.")
    longer = (
        *GOOD,
        "The kitchen is cold in winter. What then?",
        "A hot water bottle beside the bowl does it.",
    )
    counts = Counter()
    assert list(cleaning.clean([GOOD, second, GOOD, longer], set(), counts)) == [GOOD, second, longer]
    assert counts["said before"] == 1


def test_no_kept_sentence_is_of_the_held_out_splits():
    from common.schema import load_schema

    held_out = cleaning.held_out_windows(load_schema("schema.py"))
    for split in ("dev", "test"):
        some = texts.corpus(split)[:50]
        assert not list(cleaning.clean(some, held_out, Counter()))


def test_a_teacher_is_asked_with_the_marks_that_training_has():
    template = DialogueTemplate("<u>", "<r>", "", "</u>", "<s>", "</r>")
    marks, last = teacher.prompt(template, ("a", "b", "c"))
    assert (marks, last) == (["<s><u>", "</u><r>", "</r><u>"], "</u><r>")
    assert teacher.prompt(template, ()) == ([], "<s><u>")


def test_the_decoders_vocabulary_marks_speakers_by_a_chat_template():
    tokenizer = decoder_tokenizer(TEXTS, 400)
    template = template_of(tokenizer, DialogueTemplate())
    assert (template.user_prefix, template.assistant_prefix, template.reply_end) == (
        "<user>",
        "<reply>",
        "<eos>",
    )
    ids = dialogue_ids(tokenizer, [GOOD * 2])[0]
    assert (
        tokenizer.decode(ids)
        == f"<user> {GOOD[0]}<reply> {GOOD[1]}<eos><user> {GOOD[0]}<reply> {GOOD[1]}<eos>"
    )
    assert ids == tokenizer.apply_chat_template(
        [{"role": role, "content": turn} for role, turn in zip(("user", "assistant") * 2, GOOD * 2)],
        return_dict=False,
    )


def test_windows_of_the_stream_cover_it_once_an_epoch():
    tokens = np.arange(1000, dtype=np.uint16)
    windows = decoder.batches(tokens, 4, 10, torch.device("cpu"), 0)
    seen = torch.cat([next(windows)[:, 0] for _ in range(24)])
    assert seen.unique().numel() == 96 and all((row[1:] - row[:-1] == 1).all() for row in next(windows))


def test_masked_words_are_ordinary_ones():
    generator, ordinary = torch.Generator().manual_seed(0), torch.arange(4, 50)
    ids = torch.cat(
        [torch.zeros(64, 1, dtype=torch.long), torch.randint(4, 50, (64, 30), generator=generator)], 1
    )
    hidden, chosen = encoder.masked(ids, ordinary, 50, generator)
    assert not chosen[:, 0].any() and 0.15 < chosen[:, 1:].float().mean() < 0.25
    assert (hidden[~chosen] == ids[~chosen]).all() and 0.7 < (hidden[chosen] == 50).float().mean() < 0.9


def test_half_of_the_pairs_belong_together():
    tokenizer = encoder_tokenizer(TEXTS, 200)
    reader = encoder.Reader(tokenizer, texts.corpus("dev"), tokenizer, 0)
    drawn = [reader.reply(turns) for turns in reader.dialogues]
    right = [label for _, label in drawn]
    assert 0.45 < np.mean(right) < 0.56
    assert all(
        (reply == turns[-1]) == bool(label) for (reply, label), turns in zip(drawn, reader.dialogues) if label
    )


def test_learning_lowers_the_loss_and_is_recorded(tmp_path, monkeypatch):
    whole = texts.corpus
    monkeypatch.setattr(texts, "corpus", lambda split: whole(split)[:150])  # read at each of twenty looks

    def write(name, some):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"turns": turns}) + "\n" for turns in some))

    write("train", texts.corpus("train")[:150])
    write("dev", texts.corpus("dev")[:20])
    small = [
        "--text",
        str(tmp_path),
        "--device",
        "cpu",
        "--width",
        "64",
        "--layers",
        "1",
        "--vocabulary",
        "600",
    ]
    assert decoder.main([*small, "--out", str(tmp_path / "out" / "decoder"), "--tokens", "8000", "--batch", "8", "--length", "32", "--corpus-times", "0"]) == 0  # fmt: skip
    record = json.loads((tmp_path / "out" / "decoder" / "training.json").read_text())
    assert record["history"][-1]["training"]["nats"] < record["history"][0]["training"]["nats"]
    assert record["kept"] == min(record["history"], key=lambda look: look["corpus_nats_per_byte"])["step"]
    model, tokenizer = (
        load_decoder(str(tmp_path / "out" / "decoder")),
        load_decoder_tokenizer(str(tmp_path / "out" / "decoder")),
    )
    assert (
        loop.parameters(model) == record["parameters"]
        and template_of(tokenizer, None).assistant_prefix == "<reply>"
    )
    assert json.loads((tmp_path / "out" / "tried.jsonl").read_text())["settings"]["width"] == 64
    further = ["--start-from", str(tmp_path / "out" / "decoder"), "--out", str(tmp_path / "on" / "decoder")]
    assert decoder.main([*small, *further, "--tokens", "600", "--batch", "2", "--length", "32", "--corpus-times", "0"]) == 0  # fmt: skip
    again = json.loads((tmp_path / "on" / "decoder" / "training.json").read_text())
    assert again["parameters"] == record["parameters"]
    assert again["history"][0]["corpus_nats_per_byte"] < record["history"][0]["corpus_nats_per_byte"]


def test_the_best_look_is_kept_and_not_the_last():
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weight.weight, 4.0)
    seen = []

    def distance_from_one():  # falls, then rises: the loss pulls the weight below 0
        seen.append(abs(float(weight.weight.detach()) - 1.0))
        return {"distance": seen[-1]}

    batches = iter(lambda: torch.ones(1, 1), None)
    result = loop.optimise("line", weight, batches, lambda batch: {"value": (weight(batch) + 1).square().sum()}, 40, 0.4, torch.device("cpu"), distance_from_one, best="distance")  # fmt: skip
    assert result["kept"] < result["steps"] and min(seen) < seen[-1]
    assert abs(float(weight.weight.detach()) - 1.0) == pytest.approx(min(seen), abs=1e-6)


def test_further_text_comes_in_turns(tmp_path):
    lines = [f"{('User', 'Assistant')[n % 2]}: turn {n}" for n in range(9)]
    (tmp_path / "more.txt").write_text("\n".join(lines) + "\n\nA line of prose.\n\n")
    found = list(texts.further(tmp_path / "more.txt"))
    assert (
        [len(turns) for turns in found] == [6, 2, 1]
        and found[0][0] == "turn 0"
        and found[-1] == ("A line of prose.",)
    )


def test_the_bundled_bases_are_whole_small_and_read_as_the_scripts_read():
    decoder_, encoder_ = load_decoder(f"{BASE}/decoder"), load_encoder(f"{BASE}/encoder")
    assert loop.parameters(decoder_) <= 8_000_000 and loop.parameters(encoder_) <= 5_000_000
    tokenizer = load_decoder_tokenizer(f"{BASE}/decoder")
    assert tokenizer.vocab_size <= 8192 and len(load_tokenizer(f"{BASE}/encoder")) <= 8192
    dialogues = texts.corpus("dev")[:64]
    spoken = decoder.nats_per_byte(decoder_, tokenizer, dialogues, torch.device("cpu"))
    shuffled = [(*turns[:-1], " ".join(turns[-1].split()[::-1])) for turns in dialogues]
    assert spoken < 1.1 < decoder.nats_per_byte(decoder_, tokenizer, shuffled, torch.device("cpu"))
    row = encode_for_decoder(tokenizer, template_of(tokenizer, None), [GOOD[:1]], [GOOD[1]], 64)[0]
    assert tokenizer.decode(row["input_ids"]).endswith("hour.<eos>")


@pytest.mark.slow
def test_an_encoder_is_trained_on_its_three_tasks_and_only_it_is_kept(tmp_path):
    for name, some in (("train", texts.corpus("train")[:200]), ("dev", texts.corpus("dev")[:20])):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"turns": turns}) + "\n" for turns in some))
    out = tmp_path / "out" / "encoder"
    small = ["--width", "64", "--layers", "1", "--vocabulary", "600", "--batch", "16", "--steps", "2"]
    words = ["--text", str(tmp_path), "--out", str(out), "--teacher", f"{BASE}/encoder", "--device", "cpu"]
    assert encoder.main([*words, *small, "--workers", "1", "--corpus-times", "0"]) == 0
    last = json.loads((out / "training.json").read_text())["history"][-1]
    assert set(last["training"]) == {"words", "belongs", "vectors"} and 0 <= last["corpus_told_right"] <= 1
    assert load_encoder(str(out)).config.num_hidden_layers == 1
