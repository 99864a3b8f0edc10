"""What the training of the evaluators shares, for attributes and for coherence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.special import softmax
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from common import processes
from common.errors import InputError
from common.options import at_least, within
from dataset.batching import ClassifierCollator
from dataset.encoding import IGNORED, SHORTEST
from model.bases import ScratchSize, weights_hash
from model.losses import sum_over_processes
from scoring.calibration import dev_report
from scoring.evaluators import Evaluator, majority_warning, save_classifier
from training.stage import PRECISIONS, Stage, resolved_arguments, run_trainer
from training.steps import with_steps
from training.trainer import StageTrainer


@dataclass(frozen=True)
class EvaluatorArguments:
    """Options of the evaluators' training, for attributes and for coherence."""

    precision: str = field(
        default="auto",
        metadata={"help": "auto (bf16 where the GPU has it), fp32, bf16, fp16", "choices": PRECISIONS},
    )
    max_length: int = field(default=128, metadata={"help": "longest input in tokens"})
    lora_rank: int = field(
        default=0, metadata={"help": "train adapters of this rank on the frozen base (LoRA); 0: all weights"}
    )
    min_steps: int = field(
        default=0,
        metadata={
            "help": "at least so many steps, except with --limit: few rows are gone through in more epochs; 0: as many as the epochs make"
        },
    )
    scratch_layers: int = field(default=2, metadata={"help": "layers of an encoder trained from scratch"})
    scratch_width: int = field(default=128, metadata={"help": "its width"})
    scratch_heads: int = field(default=4, metadata={"help": "its attention heads"})
    scratch_vocab_size: int = field(default=4000, metadata={"help": "its vocabulary"})
    scratch_dropout: float = field(default=0.1, metadata={"help": "its dropout"})

    def __post_init__(self):
        at_least(SHORTEST, self, "max_length")
        at_least(0, self, "lora_rank min_steps")
        at_least(1, self, "scratch_layers scratch_width scratch_heads scratch_vocab_size")
        within(
            "scratch_dropout",
            self.scratch_dropout,
            0 <= self.scratch_dropout < 1,
            "of 0 or more and less than 1",
        )

    @property
    def size(self) -> ScratchSize:
        """The size of an encoder trained from scratch."""
        return ScratchSize(
            self.scratch_layers,
            self.scratch_width,
            self.scratch_heads,
            self.scratch_vocab_size,
            self.max_length + 2,
            self.scratch_dropout,
        )


def doubt_of(train: list[int], dev: list[int], names: list[str]) -> str | None:
    """Why a classifier trained and measured on these labels is no evaluator; None where it is one.

    Args:
        train, dev: label indices.
        names: of all labels.
    """
    for split, labels in (("training", train), ("dev", dev)):
        there = [name for index, name in enumerate(names) if index in set(labels)]
        if len(there) < 2:
            return f"no evaluator: its {split} data has {repr(there[0]) + ' alone' if there else 'no rows'}, of {names}"
        if split == "training" and len(there) < len(names):
            return f"no evaluator: its training data has nothing of {[name for name in names if name not in there]}"
    return None


@torch.no_grad()
def check_length(model: PreTrainedModel, longest: int) -> None:
    """Raises `InputError` where a classifier cannot read its longest input."""
    training, row = model.training, torch.ones(1, longest, dtype=torch.long, device=model.device)
    try:
        with torch.random.fork_rng(devices=[]):
            model.eval()(input_ids=row, attention_mask=row)
    except (IndexError, RuntimeError) as error:
        positions = getattr(model.config, "max_position_embeddings", None)
        raise InputError(
            f"the base ({model.config.model_type}, {positions} positions) cannot read {longest} tokens; lower --max_length"
        ) from error
    finally:
        model.train(training)


def accuracy_or_why_not(metrics: dict, unit: str = "texts") -> str:
    """An evaluator's dev accuracy in words, or why it has none."""
    return metrics.get("doubt") or f"dev accuracy {metrics['accuracy']:.3f} on {metrics['n_dev']} {unit}"


def accuracy(prediction) -> dict[str, float]:
    """Arg-max accuracy of a `transformers.EvalPrediction`."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


class EvaluatorTrainer(StageTrainer):
    """Trains a sequence classifier by the mean cross-entropy of a step's rows, those of all processes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean; accumulation divides it

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean over all processes' rows, times their number, by which the averaging of gradients divides it."""
        if not processes.several() or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        own = F.cross_entropy(
            outputs.logits.float(), labels, reduction="sum", label_smoothing=self.args.label_smoothing_factor
        )
        loss = own * processes.count() / sum_over_processes((labels != IGNORED).float().sum())
        return (loss, outputs) if return_outputs else loss


def train_evaluator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    dev: Dataset,
    training: TrainingArguments,
    stage: Stage,
    options: EvaluatorArguments,
    limit: int | None,
    audit: Callable[[Path], dict] | None = None,
) -> dict:
    """Train an evaluator into its stage's folder.

    Args:
        limit: of the rows, of a trial, which has as many steps as its epochs make.
        train, dev: encoded rows with ``labels`` and ``length``.
        audit: called with the folder of the trained model; what it returns is kept as the metric ``audit``.

    Returns:
        The stage's record; its metrics are dev ``accuracy``, ``n_train``, ``n_dev``, ``hash``, ``confusion`` and
        ``calibration``; and ``doubt``, with an accuracy of None, where it is no evaluator.
    """
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if doubt := doubt_of(list(train["labels"]), list(dev["labels"]), names):
        print(f"warning: {stage.name} will be {doubt}", flush=True)
    check_length(model, max([*train["length"], *dev["length"]], default=1))
    trainer = EvaluatorTrainer(
        model=model,
        args=resolved_arguments(
            with_steps(training, len(train), 0 if limit else options.min_steps),
            stage,
            options.precision,
            label_names=["labels"],
        ),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=ClassifierCollator(tokenizer.pad_token_id),
        compute_metrics=accuracy,
        stage=stage.name,
        tokenizers={"input_ids": tokenizer},
    )
    seconds = run_trainer(trainer, stage)
    predicted = trainer.predict(dev)
    metrics = {"accuracy": predicted.metrics["test_accuracy"], "n_train": len(train), "n_dev": len(dev)}
    if doubt:
        metrics |= {"accuracy": None, "doubt": doubt}
    metrics |= dev_report(
        softmax(predicted.predictions.astype(float), axis=-1), predicted.label_ids.tolist(), names
    )

    def save(folder: Path) -> None:
        save_classifier(trainer.model, folder)
        tokenizer.save_pretrained(folder)
        metrics["hash"] = weights_hash(folder)
        if audit is not None:
            metrics["audit"] = audit(folder)

    def load(folder: Path) -> None:
        Evaluator.load(folder, stage.name, torch.device("cpu"), {}, names)

    record = processes.by_first(lambda: stage.finish(save, metrics, seconds, load))
    if line := majority_warning(stage.name, metrics):
        print(f"warning: {line}", flush=True)
    return record
