"""MAUVE on features of a local language model: equal texts are alike, other ones are not, and few are said to be few."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from common.errors import InputError
from common.schema import load_schema
from dataset.encoding import DialogueTemplate
from scoring import mauve as module
from scoring.mauve import Mauve, last_states, mauve
from scoring.perplexity import PerplexityModel
from scoring.score import main


@pytest.fixture(scope="session")
def language_model_folder(decoder_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    config = GPT2Config(
        vocab_size=len(decoder_tokenizer), initializer_range=0.3, bos_token_id=0, eos_token_id=0, **sizes
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    decoder_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(language_model_folder):
    return PerplexityModel(str(language_model_folder), DialogueTemplate(), torch.device("cpu"))


def texts(words, n=150):
    return [f"{words[i % len(words)]} {words[(i * 7 + 3) % len(words)]} {i % 11}" for i in range(n)]


BREAD, SNOW = (
    ("the bread", "keep it warm", "another hour", "dough"),
    ("Snow falls", "WINTER?", "no!", "why, why"),
)


def test_states_do_not_depend_on_the_batch(language_model):
    some = ["Keep the dough warm.", "It burns.", "", "Is it worth it to try again tomorrow?"]
    model, tokenizer = language_model.model, language_model.tokenizer
    together = last_states(model, tokenizer, some, 64)
    alone = torch.cat([last_states(model, tokenizer, [text], 64) for text in some])
    assert together.shape == (4, 16) and torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_equal_texts_are_alike_and_other_ones_are_not(language_model):
    pytest.importorskip("mauve")
    same = mauve(texts(BREAD), texts(BREAD), language_model)
    other = mauve(texts(SNOW), texts(BREAD), language_model)
    mixed = mauve(texts(SNOW, 75) + texts(BREAD, 75), texts(BREAD), language_model)
    assert same.value == pytest.approx(1.0) and other.value < mixed.value < 0.99 and other.value < 0.5
    assert mauve(texts(SNOW), texts(BREAD), language_model).value == other.value  # seeded
    cut = mauve(texts(BREAD, 120), texts(BREAD, 400), language_model)
    assert (cut.texts, cut.replies, cut.references) == (120, 120, 400)


def test_few_texts_are_said_to_be_few(language_model, monkeypatch):
    monkeypatch.setattr(module, "_package", lambda: None)  # not needed for so few
    few = mauve(texts(BREAD, 20), texts(BREAD), language_model)
    assert few.value is None and "not computed from 20 replies and 150 people's replies" in few.warnings()[0]
    assert "stands on 500 texts a side" in Mauve(0.5, 500, 500, 900, "lm").warnings()[0]
    assert Mauve(0.5, 2000, 2000, 2000, "lm").warnings() == []


def test_scoring_adds_it_to_the_results(language_model_folder, write_rows, capsys, monkeypatch):
    pytest.importorskip("mauve")
    target = {"attitude": "optimistic"}
    rows = [
        {"context": [f"question {i}?"], "target": target, "response": text, "reference": other}
        for i, (text, other) in enumerate(zip(texts(SNOW, 100), texts(BREAD, 100)))
    ]
    path = write_rows(*rows, name="replies.jsonl")
    words = [str(path), "--no-evaluators", "--ppl-model", str(language_model_folder), "--mauve"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "MAUVE↑" in out and "warning: MAUVE stands on 100 texts a side" in out
    from common.jsonl import read_json

    record = read_json(path.with_name("replies.results.json"))
    assert 0 < record["overall"]["mauve"] < 0.5 and record["run"]["mauve"]["references"] == 100
    dialogues = write_rows(
        *({"input": [f"q {i}"], "output": [text], "tag": None} for i, text in enumerate(texts(SNOW, 100))),
        name="people.jsonl",
    )
    assert main([*words, "--references", str(dialogues)]) == 0
    assert read_json(path.with_name("replies.results.json"))["overall"]["mauve"] == pytest.approx(1.0)


def test_what_it_needs_is_said_in_a_line(write_rows, monkeypatch):
    row = {"context": ["a?"], "target": {"attitude": "optimistic"}, "response": "b"}
    path = write_rows(row, name="one.jsonl")
    with pytest.raises(InputError, match="name it with --ppl-model"):
        main([str(path), "--no-evaluators", "--mauve"])
    monkeypatch.setitem(__import__("sys").modules, "mauve", None)
    with pytest.raises(InputError, match="MAUVE needs a package: pip install mauve-text"):
        main([str(path), "--no-evaluators", "--mauve", "--ppl-model", "x"])
    assert load_schema().names  # the schema is the repository's
