"""training/steps.py: how long a training is."""

import json

import pytest
from transformers import TrainingArguments

import train_classifier
import train_cvae
from training.steps import with_steps


def training_of(folder, epochs: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=32, use_cpu=True, report_to=[]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "least", "epochs"),
    [(120, 120, 30), (2016, 120, 2), (121, 9, 3), (1, 5, 5), (0, 5, 5), (120, 0, 2)],
)
def test_few_rows_are_gone_through_in_more_epochs(tmp_path, rows, least, epochs):
    assert with_steps(training_of(tmp_path, 2), rows, least).num_train_epochs == epochs


def test_many_short_epochs_are_evaluated_about_ten_times(tmp_path):
    training = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=32, use_cpu=True, report_to=[],
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
    )  # fmt: skip
    many = with_steps(training, 20, 120)  # of one step each
    assert many.num_train_epochs == 120 and (many.eval_strategy, many.eval_steps) == ("steps", 12)
    assert (many.save_strategy, many.save_steps) == ("steps", 12)
    few = with_steps(training, 2016, 126)
    assert few.eval_strategy == "epoch" and few is training


def test_accumulated_batches_count_as_one_step_and_a_number_of_steps_stays(tmp_path):
    training = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, gradient_accumulation_steps=4,
        use_cpu=True, report_to=[],
    )  # fmt: skip
    assert with_steps(training, 64, 10).num_train_epochs == 5
    fixed = TrainingArguments(output_dir=str(tmp_path), max_steps=3, use_cpu=True, report_to=[])
    assert with_steps(fixed, 64, 10) is fixed


def test_a_part_of_an_epoch_that_has_the_steps_stays_one(tmp_path):
    training = training_of(tmp_path, 1.4)
    assert with_steps(training, 2016, 88) is training  # of 63 steps an epoch
    assert with_steps(training, 2016, 89).num_train_epochs == 2


@pytest.mark.parametrize("train", [train_cvae.main, train_classifier.main])
@pytest.mark.parametrize(("more", "steps"), [([], 6), (["--limit", "4"], 1)])
def test_few_dialogues_are_trained_on_for_the_least_number_of_steps(tmp_path, capsys, train, more, steps):
    """Four steps of the demo's epochs left the latent heads of a small attribute at chance; a trial stays short."""
    rows = [{"input": [f"What of {n}?"], "output": [f"{a} thing"], "tag": a} for n in range(4) for a in ("red", "green")]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = tmp_path / "my_schema.py"
    schema.write_text(
        "ATTRIBUTES = [dict(name='colour', aspects=['red', 'green'], dialogues='rows.jsonl', dev_dialogues='rows.jsonl')]\n"
    )
    words = [
        "--preset",
        "scratch",
        "--outs",
        str(tmp_path),
        "--schema",
        str(schema),
        "--num_train_epochs",
        "1",
    ]
    assert train([*words, "--min_steps", "6", *more]) == 0
    assert f"step {steps}/{steps} " in capsys.readouterr().out
