"""Two processes train as one does with twice the rows; any of them may be ended, and the next start goes on."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two import ROOT, together

from common.options import parse_arguments
from dataset.sharing import SharedBatches
from training import classifier, cvae

WORDS = (
    "--preset scratch --num_train_epochs 2 --eval_strategy steps --save_strategy steps --eval_steps 2 --save_steps 2"
    " --logging_steps 1 --load_best_model_at_end false --use_cpu --scratch_dropout 0"
)
CVAE = f"{WORDS} --limit 5 --token_dropout 0 --encoder_length 32 --decoder_length 48 --scratch_vocab_size 300"
TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}  # Adam's first steps make much of differences in the last bits


def words(outs: Path, options: str, rows: int) -> list[str]:
    sizes = f"--per_device_train_batch_size {rows} --per_device_eval_batch_size {rows}"
    return f"{options} {sizes} --outs {outs} --run r --schema {ROOT / 'schema.py'}".split()


def alone(module, stage: str, argv: list[str], monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    module.train(*parse_arguments(module.OPTIONS, stage, argv, ""))


def same(one: Path, two: Path, shown: tuple[str, ...]) -> None:
    """The same losses step by step, dev numbers, weights and inputs."""
    records = [json.loads((folder / "stage.json").read_text()) for folder in (one, two)]
    assert records[0]["inputs"] == records[1]["inputs"]  # so that either counts as the other
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert sorted(weights[0]) == sorted(weights[1])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, **TOLERANCE)
    histories = [record["metrics"].get("history", []) for record in records]
    assert len(histories[0]) == len(histories[1])
    for before, now in zip(*histories):
        assert before.keys() == now.keys() and before["step"] == now["step"]
        for name in before.keys() & set(shown):
            assert now[name] == pytest.approx(before[name], rel=2e-3, abs=1e-4), (name, before["step"])


LOGGED = (
    "loss",
    "reconstruction",
    "kl",
    "classification",
    "distance",
    "context",
    "grad_norm",
    "eval_loss",
    "eval_kl",
)
LOGGED += ("eval_distance", "eval_reconstruction", "eval_prior_head_accuracy", "eval_latent_scale")


def test_two_processes_train_as_one_with_twice_the_rows(tmp_path, monkeypatch):
    """The last step of an epoch has one row, so that one of the processes has none."""
    done = together("cvae", words(tmp_path / "two", CVAE, 2))
    assert done.returncode == 0, done.stderr
    alone(cvae, "cvae", words(tmp_path / "one", CVAE, 4), monkeypatch)
    same(tmp_path / "one" / "r" / "cvae", tmp_path / "two" / "r" / "cvae", LOGGED)
    assert done.stdout.count("-> ") == 1 and "4 of them a step in 2 processes" in done.stdout
    assert not list((tmp_path / "two" / "r").glob("*.partial"))


@pytest.mark.slow
def test_steps_cut_where_the_terms_begin_are_the_same(tmp_path, monkeypatch):
    """As they are recorded on GPUs, accumulating two batches a step."""
    options = f"{CVAE} --shared_graphs true --gradient_accumulation_steps 2"
    done = together("cvae", words(tmp_path / "two", options, 1), RECORDED="1")
    assert done.returncode == 0, done.stderr
    alone(cvae, "cvae", words(tmp_path / "one", options, 2), monkeypatch)
    same(tmp_path / "one" / "r" / "cvae", tmp_path / "two" / "r" / "cvae", LOGGED)


@pytest.mark.slow
def test_a_decoder_in_bf16_is_rounded_alike_in_both(tmp_path, monkeypatch):
    """Gradients of two types; of the weights, rounded up or down by random numbers, all processes have the same."""
    pytest.importorskip("bitsandbytes")
    options = f"{CVAE} --num_train_epochs 1 --bf16_decoder true --optim adamw_bnb_8bit --precision bf16"
    options += " --recompute_tokens 1"
    done = together("cvae", words(tmp_path / "two", options, 2), RECORDED="1")
    assert done.returncode == 0, done.stderr
    alone(cvae, "cvae", words(tmp_path / "one", options, 4), monkeypatch)
    one, two = (load_file(tmp_path / name / "r" / "cvae" / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        assert value.dtype == two[name].dtype == (torch.bfloat16 if ".lm." in name else torch.float32)
        assert (value.float() - two[name].float()).norm() <= 0.01 * value.float().norm() + 1e-3, name
    alike = [(value == two[name]).float().mean() for name, value in one.items() if ".lm." in name]
    assert sum(alike) / len(alike) > 0.8


@pytest.mark.slow
def test_two_processes_train_a_classifier_as_one(tmp_path, monkeypatch):
    options = f"{WORDS} --limit 5 --attribute attitude --scratch_vocab_size 300"
    done = together("classifier", words(tmp_path / "two", options, 2))
    assert done.returncode == 0, done.stderr
    alone(classifier, "classifier", words(tmp_path / "one", options, 4), monkeypatch)
    same(*(tmp_path / name / "r" / "classifier" / "attitude" for name in ("one", "two")), ())


@pytest.mark.slow
def test_one_is_killed_and_the_next_start_ends_as_if_nobody_had_been(tmp_path, monkeypatch):
    argv = words(tmp_path / "two", CVAE, 2)
    killed = together("cvae", argv, "1 4 9")
    assert killed.returncode == 128 + 9 and "Traceback" not in killed.stderr
    assert "error: process 1 of 2 was ended by SIGKILL" in killed.stderr
    work = tmp_path / "two" / "r" / "cvae.partial"
    assert sorted(path.name for path in work.glob("checkpoint-2/rng_state_*")) == [
        "rng_state_0.pth",
        "rng_state_1.pth",
    ]
    again = together("cvae", argv)
    assert again.returncode == 0 and "going on from checkpoint-2" in again.stdout, again.stderr
    alone(cvae, "cvae", words(tmp_path / "one", CVAE, 4), monkeypatch)
    same(tmp_path / "one" / "r" / "cvae", tmp_path / "two" / "r" / "cvae", LOGGED)


@pytest.mark.slow
def test_a_signal_stops_all_at_the_same_step(tmp_path):
    done = together("cvae", words(tmp_path / "two", CVAE, 2), f"launcher 3 {signal.SIGTERM:d}")
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGTERM after step" in done.stderr and "Traceback" not in done.stderr
    last = max(
        (tmp_path / "two" / "r" / "cvae.partial").glob("checkpoint-*"), key=lambda path: int(path.name[11:])
    )
    state = json.loads((last / "trainer_state.json").read_text())
    assert 3 <= state["global_step"] < state["max_steps"] and len(list(last.glob("rng_state_*"))) == 2


@pytest.mark.slow
def test_a_mistake_is_said_once(tmp_path):
    done = together("cvae", [*words(tmp_path / "two", CVAE, 2), "--latent_size", "0"])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == "error: latent_size: expected a number of at least 1, found 0"


def test_together_they_have_every_row_once_and_fillers_where_there_is_none():
    shares = [list(SharedBatches(range(9), 4, False, rank, 3)) for rank in range(3)]
    assert shares == [[[0, 3], [4, 7], [8]], [[1], [5], [(8,)]], [[2], [6], [(8,)]]]
    assert [list(SharedBatches(range(9), 4, True, rank, 3)) for rank in (1,)] == [[[1], [5]]]
