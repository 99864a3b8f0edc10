"""What makes a stage be done again, and what does not; the reason is said."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from common.content import content_of
from common.jsonl import read_json, write_json
from model.bases import weights_hash
from training.inputs import HARMLESS, OF_THE_BEST, SHOWN, Inputs, compared_settings
from training.stage import Stage


def settings(**changes) -> dict:
    return compared_settings(TrainingArguments(output_dir="x", report_to="none", use_cpu=True, **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"adam_epsilon": 1e-6},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}},
        {"data_seed": 7},
        {"neftune_noise_alpha": 5.0},
        {"dataloader_drop_last": True},
        {"optim_args": "betas=0.8"},
        {"full_determinism": True},
        {"per_device_eval_batch_size": 3},
        {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "load_best_model_at_end": True},
        {"metric_for_best_model": "loss", "greater_is_better": True},
        {"tf32": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_that_may_matter_is_compared(change):
    assert settings(**change) != settings()


@pytest.mark.parametrize("change", [{"logging_steps": 3}, {"output_dir": "y"}, {"save_steps": 7}, {"bf16": True}, {"run_name": "r"}], ids=str)  # fmt: skip
def test_harmless_options_are_not(change):
    common = {"output_dir": "x", "report_to": "none", "use_cpu": True}
    assert compared_settings(TrainingArguments(**common | change)) == settings()


def test_which_checkpoint_can_be_the_best_is_no_harmless_option():
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    assert settings(save_steps=2, **best) != settings(save_steps=4, **best)


def test_the_harmless_are_named_as_transformers_names_them():
    """An option that is renamed must not slip out of the comparison, or into it, unseen."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert names >= {*HARMLESS, *OF_THE_BEST, *SHOWN} and not HARMLESS & {*SHOWN}


@pytest.fixture
def base(tmp_path):
    """A base's folder."""
    folder = tmp_path / "one" / "encoder"
    folder.mkdir(parents=True)
    save_file({"w": torch.ones(4)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4, "_name_or_path": "/somewhere"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("a base")
    return folder


def test_a_base_is_what_it_holds_and_not_where_it_lies(base, tmp_path):
    before, other = content_of(base), shutil.copytree(base, tmp_path / "other")
    (other / "README.md").write_text("the same base")
    (other / "config.json").write_text(json.dumps({"_name_or_path": "/elsewhere", "hidden_size": 4}))
    assert content_of(other) == before == content_of(str(base))
    assert content_of("scratch") == "scratch" and content_of(None) is None


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
def test_a_base_swapped_at_the_same_place_is_another(base, file):
    before = content_of(base)
    if file == "model.safetensors":
        save_file({"w": torch.zeros(4)}, base / file)
    else:
        (base / file).write_text('{"hidden_size": 8}')
    assert content_of(base) != before


def trained(folder, inputs: Inputs) -> Stage:
    """A stage that is finished."""
    stage, metrics = Stage("mood", folder / "mood", inputs), {}

    def save(place):
        save_file({"w": torch.ones(2)}, place / "model.safetensors")
        metrics["hash"] = weights_hash(place)

    stage.finish(save, metrics, 1.0)
    return stage


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Inputs(2, {"seed": 0}, {"the base": "a"}), "the code of this stage is version 2, not 1"),
        (Inputs(1, {"seed": 3}, {"the base": "a"}), "seed was 0, is 3"),
        (
            Inputs(1, {"seed": 0, "adam_epsilon": 1e-6}, {"the base": "a"}),
            "adam_epsilon was the default, is 1e-06",
        ),
        (Inputs(1, {"seed": 0}, {"the base": "b"}), "the content of the base is another"),
        (
            Inputs(1, {"seed": 3}, {"the base": "b"}),
            "the content of the base is another; seed was 0, is 3",
        ),
    ],
)
def test_what_is_done_again_says_why(tmp_path, capsys, changed, said):
    same = Inputs(1, {"seed": 0}, {"the base": "a"})
    stage = trained(tmp_path, same)
    assert stage.finished() and not capsys.readouterr().out
    assert Stage("mood", stage.folder, changed).finished() is None
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.rstrip().endswith(f"because {said}")
    stage.last_checkpoint()
    assert stage.last_checkpoint() is None and not capsys.readouterr().out
    assert Stage("mood", stage.folder, changed).last_checkpoint() is None
    assert f"dropped, because {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "made by an earlier version"),
        ({}, "made by an earlier version"),
        ("x", "'inputs': expected an object, found 'x'; it is done again"),
        ({"code": 1, "options": []}, "'inputs.options': expected an object, found list; it is done again"),
    ],
    ids=str,
)
def test_a_record_without_inputs_is_done_again(tmp_path, capsys, inputs, said):
    stage = trained(tmp_path, Inputs(1, {}, {}))
    record = read_json(stage.folder / "stage.json")
    write_json(stage.folder / "stage.json", record | {"inputs": inputs})
    assert stage.finished() is None and said in capsys.readouterr().out
