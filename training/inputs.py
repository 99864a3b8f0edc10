"""What a stage's outcome depends on: its options, the content of what it reads, the version of its code."""

import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from transformers import TrainingArguments

from common.content import content_of
from common.processes import count
from common.schema import Schema

PLACES_AND_LOGS = (
    "output_dir do_train do_eval do_predict resume_from_checkpoint logging_strategy logging_steps logging_first_step"
    " log_on_each_node logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to run_name project"
    " trackio_space_id trackio_bucket_id trackio_static_space_id include_num_input_tokens_seen skip_memory_metrics"
    " push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision save_on_each_node"
)
ROWS_TO_THE_DEVICE = (
    "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_multiprocessing_context"
    " eval_accumulation_steps torch_empty_cache_steps ddp_backend ddp_timeout local_rank use_cpu"
)
REPLACED = (
    "bf16 fp16 save_total_limit remove_unused_columns label_names"  # by `training.stage.resolved_arguments`
)
HARMLESS = frozenset(f"{PLACES_AND_LOGS} {ROWS_TO_THE_DEVICE} {REPLACED}".split())
OF_THE_BEST = frozenset(
    {"save_strategy", "save_steps"}
)  # they decide only which checkpoint can be the best one
SHOWN = (  # in records, even where they are the defaults
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay",
    "warmup_steps", "lr_scheduler_type", "max_grad_norm", "seed", "optim", "adam_beta1", "adam_beta2", "label_smoothing_factor",
    "gradient_checkpointing", "train_sampling_strategy", "eval_strategy", "eval_steps", "metric_for_best_model",
)  # fmt: skip


def compared_settings(training: TrainingArguments) -> dict:
    """The training options that may change what comes out: all that are not known to be harmless.

    Returns:
        name -> value as in JSON; of those that no preset of ours sets, the ones that are not `transformers`' defaults.
    """
    values, defaults = _values(training), _defaults()
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
    ):  # several processes train as one with as many rows as theirs together
        values[name] = values[name] * count()
    harmless = HARMLESS if training.load_best_model_at_end else HARMLESS | OF_THE_BEST
    return {
        name: value
        for name, value in values.items()
        if name not in harmless and (name in SHOWN or value != defaults.get(name))
    }


def _values(training: TrainingArguments) -> dict:
    names, values = {field.name for field in fields(training)}, training.to_dict()
    return {name: _plain(value) for name, value in values.items() if name in names}


@cache
def _defaults() -> dict:
    return _values(TrainingArguments(output_dir="unused", report_to="none"))


def _plain(value: object) -> object:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def dialogue_files(schema: Schema) -> dict[str, Path | None]:
    """What is read -> file, for the dialogues of all attributes."""
    return {
        f"the {split} dialogues of {attribute.name}": path
        for attribute in schema.attributes
        for split, path in (("training", attribute.dialogues), ("dev", attribute.dev_dialogues))
    }


@dataclass(frozen=True)
class Inputs:
    """All that the outcome of a stage depends on; equal inputs mean that the work would come out the same.

    Attributes:
        code: version of the stage's code, a number that is raised by hand when the same options and data come out otherwise.
        options: name -> value.
        contents: what is read -> the hash of its content (`common.content.content_of`); None: there is none.
    """

    code: int
    options: dict
    contents: dict[str, str | None]

    @classmethod
    def of(cls, code: int, options: dict, reads: dict[str, Path | str | None]) -> "Inputs":
        """Inputs with the content of what is read: files, bases' folders, or names that stand for themselves."""
        return cls(code, options, {name: content_of(path) for name, path in reads.items()})

    def record(self) -> dict:
        """As JSON has them."""
        return _plain({"code": self.code, "options": self.options, "contents": self.contents})

    def differences(self, before: object) -> list[str]:
        """What differs from the inputs that a record has, in words; empty where nothing does."""
        now = self.record()
        if before == now:
            return []
        if not isinstance(before, dict) or not all(isinstance(before.get(key), dict) for key in ("options", "contents")):  # fmt: skip
            return ["it was made by an earlier version, which kept no record of what it stands on"]
        changes = []
        if before.get("code") != now["code"]:
            changes.append(f"the code of this stage is version {now['code']}, not {before.get('code')}")
        for name in dict.fromkeys([*now["contents"], *before["contents"]]):
            if before["contents"].get(name) != now["contents"].get(name):
                changes.append(f"the content of {name} is another")
        for name in dict.fromkeys([*now["options"], *before["options"]]):
            old, new = (part["options"].get(name, "the default") for part in (before, now))
            if old != new:
                changes.append(f"{name} was {old}, is {new}")
        return changes or ["the record of what it stands on is damaged"]

    def reasons(self, before: object, most: int = 4) -> str:
        """`differences` as one phrase."""
        changes = self.differences(before)
        return "; ".join(changes[:most]) + (f"; {len(changes) - most} more" if changes[most:] else "")
