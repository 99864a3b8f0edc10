"""Training options that nothing can be trained with, or that `transformers` turns down: one line each, before or once a training begins."""

import json
import re

import pytest

import train_cvae
from common.entry import message_for
from common.errors import InputError
from common.option_errors import option_mistake
from common.options import parse_arguments

NUMBERS = [
    ("learning_rate", "inf"),
    ("learning_rate", "nan"),
    ("weight_decay", "nan"),
    ("weight_decay", "-1"),
    ("adam_epsilon", "-1e-8"),
    ("max_grad_norm", "-1"),
    ("adam_beta1", "1"),
    ("adam_beta2", "2"),
    ("save_steps", "-2"),
    ("dataloader_num_workers", "-1"),
    ("seed", "-1"),
    ("seed", "4294967296"),
    ("data_seed", "-5"),
]
TURNED_DOWN = {
    "--tf32 true": "--tf32 requires Ampere",
    "--load_best_model_at_end true --eval_strategy no": "--load_best_model_at_end requires",
    "--accelerator_config {bad": "Expecting property name",
    "--lr_scheduler_kwargs {bad": "Expecting property name",
    "--dataloader_prefetch_factor 2": "--dataloader_prefetch_factor can only be set",
    "--warmup_steps -3": "Expected value warmup_steps >= 0",
    "--push_to_hub true": "--push_to_hub: checkpoints are not sent away",
}
LATER = {
    "--optim_args foo": "an option that transformers cannot use: not enough values",
    '--lr_scheduler_type polynomial --lr_scheduler_kwargs {"foo":1}': "an option that transformers cannot use: .* unexpected keyword argument 'foo'",
    "--report_to foo": "an option that transformers cannot use: foo is not supported",
    "--torch_compile true --torch_compile_backend foo": "an option that transformers cannot use: 'FOO' is not a valid",
    "--optim galore_adamw": "You need to install `galore_torch`",
    "--neftune_noise_alpha 5": "an option that transformers cannot use: `get_input_embeddings`",
    "--save_strategy best --metric_for_best_model xx": "`metric_for_best_model` .* is not found",
}


def message_of(options: str, *more: str) -> str:
    """What a user would read."""
    try:
        train_cvae.main([*options.split(), *more])
    except Exception as error:
        message = message_for(error)
        assert message is not None and "\n" not in message, repr(error)
        return message
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(("option", "value"), NUMBERS)
def test_a_number_that_nothing_can_be_trained_with(option, value):
    with pytest.raises(InputError, match=f"--{option}: expected a number .*, found"):
        parse_arguments(train_cvae.OPTIONS, "cvae", ["--preset", "scratch", f"--{option}={value}"], "")


@pytest.mark.parametrize("options", TURNED_DOWN)
def test_turned_down_when_they_are_read(options):
    assert TURNED_DOWN[options] in message_of(options, "--preset", "scratch")


@pytest.mark.parametrize("options", LATER)
def test_turned_down_when_a_training_begins(options, tmp_path):
    words = ["--preset", "scratch", "--limit", "3", "--max_steps", "1", "--outs", str(tmp_path)]
    assert re.search(LATER[options], message_of(options, *words))
    assert not (tmp_path / "scratch" / "cvae").exists()


def test_a_mistake_of_our_own_keeps_its_traceback():
    for work in (lambda: json.loads("{"), lambda: int("x"), lambda: __import__("no_such_module")):
        try:
            work()
        except Exception as error:
            assert option_mistake(error) is None
