"""A training that is ended at a checkpoint in the middle of an epoch comes out as if it had not been: the same bits."""

from pathlib import Path

import pytest
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from common.options import parse_arguments
from dataset.sampling import LengthGrouped
from model.bases import weights_hash
from training import classifier, coherence, cvae
from training.log import ReadableLog

pytestmark = pytest.mark.slow  # whole trainings and commands

ROOT = Path(__file__).resolve().parents[2]
EVALUATOR = "--scratch_layers 1 --scratch_width 16 --scratch_heads 2 --scratch_vocab_size 200 --scratch_dropout 0.2 --max_length 24 --min_steps 0"
CVAE = (
    "--scratch_encoder_layers 1 --scratch_decoder_layers 1 --scratch_width 16 --scratch_heads 2 --scratch_vocab_size 300"
    " --scratch_dropout 0.2 --token_dropout 0.3 --latent_size 4 --n_prefix 2 --encoder_length 24 --decoder_length 24"
)
STAGES = {  # training, folder, options, a step within the second epoch
    "classifier": (
        classifier,
        "classifier/attitude",
        f"--attribute attitude --limit 12 {EVALUATOR}",
        5,
    ),
    "nli": (coherence, "nli", f"--limit 4 --pair_rounds 1 {EVALUATOR}", 8),
    "cvae": (cvae, "cvae", f"--limit 6 {CVAE}", 7),
    "cvae, decoder in bf16": (
        cvae,
        "cvae",
        f"--limit 6 {CVAE} --bf16_decoder true --optim adamw_bnb_8bit --precision bf16",
        7,
    ),
    "cvae, accumulating": (cvae, "cvae", f"--limit 8 --gradient_accumulation_steps 2 {CVAE}", 4),
}
COMMON = (
    "--per_device_train_batch_size 4 --learning_rate 0.01 --train_sampling_strategy group_by_length --num_train_epochs 2"
    " --eval_strategy steps --save_strategy steps --logging_steps 2 --load_best_model_at_end false --use_cpu"
)


def weights_after(outs: Path, stage: str, every: int) -> str:
    """Train, with an evaluation and a checkpoint every so many steps; the hash of the weights."""
    module, place, words, _ = STAGES[stage]
    where = f"--outs {outs} --run r --schema {ROOT / 'schema.py'} --eval_steps {every} --save_steps {every}"
    module.train(
        *parse_arguments(module.OPTIONS, module.__name__.split(".")[1].replace("coherence", "nli"), f"{words} {COMMON} {where}".split(), "")
    )  # fmt: skip
    return weights_hash(outs / "r" / place)


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_within_an_epoch_the_weights_are_the_same(stage, tmp_path, monkeypatch, capsys):
    if "bnb" in STAGES[stage][2]:
        pytest.importorskip("bitsandbytes")
    every = STAGES[stage][3]
    undisturbed = weights_after(tmp_path / "a", stage, every)

    def ended(callback, args, state, control, **kwargs):
        assert 1 < state.epoch != int(state.epoch), "this checkpoint is not within a second epoch"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ReadableLog, "on_save", ended, raising=False)
        with pytest.raises(KeyboardInterrupt):
            weights_after(tmp_path / "b", stage, every)
    torch.manual_seed(99)  # another process has drawn other numbers
    torch.rand(7)
    assert weights_after(tmp_path / "b", stage, every) == undisturbed
    assert f"going on from checkpoint-{every}" in capsys.readouterr().out


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = [3 + n * 7 % 11 for n in range(200)]

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGrouped(4, lengths, seed)
        sampler.set_epoch(epoch)
        torch.rand(epoch + 1)  # what others draw does not matter
        return list(sampler)

    assert order(1, 2) == order(1, 2) and sorted(order(1, 2)) == list(range(200))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert lengths[order(0, 0)[0]] == max(lengths)  # what does not fit fails at once
    spread = [max(lengths[i] for i in part) - min(lengths[i] for i in part) for part in _batches(order(0, 1))]
    alone = [max(lengths[i] for i in part) - min(lengths[i] for i in part) for part in _batches(range(200))]
    assert sum(spread) < sum(alone) / 4
    assert len(get_length_grouped_indices(lengths, 4)) == len(LengthGrouped(4, lengths, 0))


def _batches(order) -> list[list[int]]:
    order = list(order)
    return [order[begin : begin + 4] for begin in range(0, len(order), 4)]
