"""A loss or a weight that is not finite stops a training in one line, with the rows and the last good checkpoint kept; numbers that mean nothing are said to."""

import json

import pytest
import torch

from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_jsonl
from generation.record import COLLAPSED_KL, head_warnings, length_warnings, posterior_warnings
from model.bases import weights_hash
from scoring.evaluators import majority, majority_warning
from scoring.results import control_warnings
from tests.faults.test_resume import STAGES, weights_after
from training.stage import damage
from training.trainer import StageTrainer
from training.watch import ROWS

pytestmark = pytest.mark.slow  # whole trainings and commands

FIRST = {"classifier": "input_ids_text", "nli": "input_ids_text", "cvae": "decoder_ids_text"}


def spoiled(step: int, place: str):
    """`StageTrainer.gradients_of` whose loss or gradients are NaN at a step."""
    whole = StageTrainer.gradients_of

    def gradients_of(trainer, model, inputs, num_items_in_batch=None):
        loss = whole(trainer, model, inputs, num_items_in_batch)
        if trainer.state.global_step + 1 == step:
            if place == "loss":
                return loss * torch.nan
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(torch.nan)
        return loss

    return gradients_of


@pytest.mark.parametrize("stage", FIRST)
def test_a_loss_that_is_not_finite_stops_at_its_step(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(StageTrainer, "gradients_of", spoiled(6, "loss"))
    with pytest.raises(InputError, match=r"the loss is not finite at step 6; its batch is in .*, checkpoint-4 before it is kept; a lower --learning_rate") as caught:  # fmt: skip
        weights_after(tmp_path, stage, 2)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "r" / STAGES[stage][1]
    work = folder.with_name(folder.name + ".partial")
    assert damage(work / "checkpoint-4") is None and not folder.exists()
    rows = [row for _, row in read_jsonl(work / ROWS)]
    assert len(rows) == 4 and all(row[FIRST[stage]].strip() for row in rows)
    monkeypatch.undo()
    assert weights_after(tmp_path, stage, 2) == weights_after(tmp_path / "undisturbed", stage, 2)


def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path, monkeypatch):
    """The loss of the step that spoils the weights is finite itself; its checkpoint would take the place of the last good one."""
    monkeypatch.setattr(StageTrainer, "gradients_of", spoiled(4, "gradient"))
    with pytest.raises(InputError, match=r"attitude: (the weights are not finite after step 4 .*|the dev loss is not finite after step 4), checkpoint-2 before it is kept"):  # fmt: skip
        weights_after(tmp_path, "classifier", 2)
    work = tmp_path / "r" / "classifier" / "attitude.partial"
    assert damage(work / "checkpoint-2") is None and not (work / "checkpoint-4").exists()


def test_weights_spoiled_by_the_last_step_are_not_called_finished(tmp_path, monkeypatch):
    """Fewer steps than --logging_steps, and no checkpoint after it."""
    monkeypatch.setattr(StageTrainer, "gradients_of", spoiled(6, "gradient"))
    with pytest.raises(InputError, match="not finite"):
        weights_after(tmp_path, "classifier", 100)
    assert not (tmp_path / "r" / "classifier" / "attitude").exists()


def test_what_a_checkpoint_logs_is_json(tmp_path, monkeypatch):
    """A gradient norm of infinity, as of a step that fp16 leaves out, made the checkpoint unreadable."""
    monkeypatch.setattr(StageTrainer, "_get_grad_norm", lambda *args, **kwargs: float("inf"))
    saved = []

    def kept(callback, args, state, control, **kwargs):
        saved.append(json.dumps(state.log_history, allow_nan=False))

    monkeypatch.setattr("training.log.ReadableLog.on_save", kept, raising=False)
    weights_after(tmp_path, "classifier", 2)
    assert saved and '"grad_norm": null' in saved[-1]


def test_rows_with_numbers_that_are_not_finite_are_json(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"a": float("nan"), "b": [1.0, float("-inf")]}, {"a": 0.5}])
    assert [row for _, row in read_jsonl(tmp_path / "rows.jsonl")] == [{"a": None, "b": [1.0, None]}, {"a": 0.5}]  # fmt: skip


def test_what_is_saved_must_load_before_it_is_called_finished(tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from training import evaluators

    whole = evaluators.save_classifier

    def incomplete(model, folder):
        whole(model, folder)
        weights = load_file(folder / "model.safetensors")
        weights.pop("classifier.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(evaluators, "save_classifier", incomplete)
    with pytest.raises(InputError, match="1 weights are missing .classifier.weight"):
        weights_after(tmp_path, "classifier", 100)
    assert not (tmp_path / "r" / "classifier" / "attitude").exists()


def record(counts, n=None):
    total = sum(map(sum, counts))
    right = sum(row[i] for i, row in enumerate(counts))
    return {"confusion": {"counts": counts}, "accuracy": right / total, "n_dev": n or total}


def test_an_evaluator_is_compared_with_the_majority_of_its_dev_data():
    """Always saying the most frequent aspect has 0.9 here, and 0.9 is over 0.8."""
    constant = record([[90, 0], [10, 0]])
    assert majority(constant) == 0.9
    assert "dev accuracy 0.900 is not over 0.960" in majority_warning("mood", constant)
    assert majority_warning("mood", record([[50, 5], [8, 42]])) is None
    assert majority_warning("mood", {"accuracy": 0.9}) is None and majority({}) is None


def test_a_collapsed_posterior_is_said():
    assert posterior_warnings({"kl_unclamped": COLLAPSED_KL + 0.01}) == posterior_warnings({}) == []
    (line,) = posterior_warnings({"kl_unclamped": 0.02})
    assert line.startswith("posterior: KL 0.02 nats per dialogue on dev is under 1:")


def test_latent_heads_at_chance_are_said():
    aspects = {"tone": ("calm", "angry"), "mood": ("glad", "sad", "cross", "bored")}  # chance 0.375
    assert head_warnings({}, aspects) == head_warnings({"head_accuracy": 0.54}, aspects) == []
    (line,) = head_warnings({"head_accuracy": 0.4}, aspects)
    assert "accuracy 0.40" in line and "chance is 0.38" in line and "--min_steps" in line


def test_control_that_does_nothing_is_said():
    without = {"ci95": {"accuracy_joint": [0.09, 0.17]}}
    assert control_warnings({"accuracy_joint": 0.171}, without) == []
    assert control_warnings({"accuracy_joint": 0.1}, None) == control_warnings({"accuracy_joint": None}, without) == []  # fmt: skip
    (line,) = control_warnings({"accuracy_joint": 0.17}, without)
    assert "joint accuracy 0.170 is not over 0.170" in line


def test_replies_cut_at_the_limit_are_said():
    assert length_warnings([48] + [20] * 9, 48) == length_warnings([], 48) == []
    (line,) = length_warnings([48, 47] + [20] * 8, 48)
    assert line.startswith("length: 2 of 10 replies (20%, over 10%) end at --max_new_tokens 48")


def test_the_warnings_reach_the_log_and_the_results(tiny_run):
    """A run of six rows is all that they warn of."""
    results, stage = read_json(tiny_run / "results.json"), read_json(tiny_run / "cvae" / "stage.json")
    kinds = {line.partition(":")[0] for line in results["warnings"]}
    assert ("posterior" in kinds) == (stage["metrics"]["kl_unclamped"] < COLLAPSED_KL)
    assert any(kind.startswith("evaluator") for kind in kinds)
    assert weights_hash(tiny_run / "cvae") == results["run"]["cvae"]
