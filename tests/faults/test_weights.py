"""Weights that are not finite, or not all there, are never used and never called finished."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from common.errors import InputError
from model.bases import not_finite
from scoring.evaluators import Evaluator
from training.inputs import Inputs
from training.stage import Stage


@pytest.fixture
def evaluator(tmp_path, encoder_tokenizer):
    """A tiny evaluator's folder, and a function that changes its weights."""
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
    }
    folder = tmp_path / "evaluator"
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    BertForSequenceClassification(
        BertConfig(vocab_size=len(encoder_tokenizer), **size, **labels)
    ).save_pretrained(folder)
    encoder_tokenizer.save_pretrained(folder)

    def change(function):
        weights = load_file(folder / "model.safetensors")
        function(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return folder, change


def load(folder):
    return Evaluator.load(folder, "mood", torch.device("cpu"), {}, ["a", "b"])


def test_nan_in_an_evaluator_is_one_line(evaluator):
    folder, change = evaluator
    load(folder)
    change(lambda weights: weights["classifier.weight"].fill_(float("nan")))
    assert not_finite(folder) == "classifier.weight"
    with pytest.raises(InputError, match="the weights are not finite .classifier.weight.; train it again"):
        load(folder)


def test_missing_weights_are_not_made_up(evaluator):
    folder, change = evaluator
    change(lambda weights: weights.pop("classifier.weight"))
    with pytest.raises(InputError, match="1 weights are missing .classifier.weight"):
        load(folder)


def test_cut_weights_are_one_line(evaluator):
    folder, _ = evaluator
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="the evaluator cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_stage_with_nan_is_not_finished(tmp_path):
    stage = Stage("mood", tmp_path / "mood", Inputs(1, {"seed": 0}, {}))
    stage.last_checkpoint()

    def save(folder):
        save_file({"layer.weight": torch.tensor([1.0, float("inf")])}, folder / "model.safetensors")

    with pytest.raises(InputError, match="mood: the trained weights are not finite .layer.weight"):
        stage.finish(save, {}, 1.0)
    assert stage.finished() is None and not stage.folder.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"], ids=["empty", "cut", "a list", "binary"])
def test_a_damaged_record_is_as_good_as_none(content, tmp_path, capsys):
    stage = Stage("mood", tmp_path / "mood", Inputs(1, {"seed": 0}, {}))
    stage.folder.mkdir()
    (stage.folder / "stage.json").write_bytes(content)
    assert stage.finished() is None and "it is done again" in capsys.readouterr().out
    stage.work.mkdir()
    (stage.work / "started.json").write_bytes(content)
    assert stage.last_checkpoint() is None
