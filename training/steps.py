"""How many steps a training makes: few rows are gone through in more epochs."""

import dataclasses
import math

from transformers import TrainingArguments

EVALUATIONS = 10  # of a training whose epochs were made more


def with_steps(training: TrainingArguments, rows: int, least: int) -> TrainingArguments:
    """Options whose epochs make at least so many steps over that many rows; the same ones where they do.

    Where an epoch is a few steps, evaluations and checkpoints at its end would take longer than the steps: there are then
    about `EVALUATIONS` of each.
    """
    step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    per_epoch = max(1, math.ceil(rows / step))
    if training.max_steps > 0 or least <= training.num_train_epochs * per_epoch:
        return training
    epochs = math.ceil(least / per_epoch)
    changes: dict = {"num_train_epochs": epochs}
    if epochs > EVALUATIONS:
        steps = epochs * per_epoch
        for kind in ("eval", "save"):
            if getattr(training, f"{kind}_strategy") == "epoch":
                changes |= {f"{kind}_strategy": "steps", f"{kind}_steps": max(1, steps // EVALUATIONS)}
    return dataclasses.replace(training, **changes)
