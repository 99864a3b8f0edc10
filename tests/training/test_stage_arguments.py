"""What `training.stage` fills in of a script's training arguments, and what it refuses."""

import dataclasses

import pytest
from transformers import TrainingArguments

from common.errors import InputError
from training.inputs import Inputs
from training.stage import Stage, resolved_arguments


@pytest.fixture
def stage(tmp_path):
    return Stage("cvae", tmp_path / "cvae", Inputs.of(1, {}, {}))


def arguments(tmp_path, **changes):
    return dataclasses.replace(
        TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True), **changes
    )


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_a_model_is_not_shared_out_among_processes(stage, tmp_path, name):
    """It would train, and what is saved would be a part of the model."""
    given = arguments(tmp_path)
    setattr(given, name, "full_shard")
    with pytest.raises(InputError, match=f"--{name}: a model cannot be shared out"):
        resolved_arguments(given, stage, "auto")


def test_half_precision_needs_a_gpu(stage, tmp_path):
    with pytest.raises(InputError, match="--precision fp16 needs a GPU"):
        resolved_arguments(arguments(tmp_path), stage, "fp16")


def test_a_stage_writes_into_its_own_folder_and_keeps_one_checkpoint(stage, tmp_path):
    found = resolved_arguments(arguments(tmp_path), stage, "bf16")
    assert found.output_dir == str(stage.work) and found.save_total_limit == 1
    assert found.bf16 and not found.fp16 and found.use_cpu
