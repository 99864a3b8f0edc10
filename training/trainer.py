"""What the trainers of all stages share: an order of batches that a resumed training repeats, and a stop at what is not finite."""

import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from common.jsonl import finite
from dataset.sampling import LengthGrouped
from training.watch import FiniteWatch


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler the epoch; with several processes a resumed `DataLoader` of `accelerate` does not."""

    def __init__(self, sampler: LengthGrouped):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        """`state.epoch` is whole at the end of an epoch, and has a fraction where training goes on within one."""
        self.sampler.set_epoch(int(state.epoch or 0))


class StageTrainer(Trainer):
    """A `Trainer` whose datasets have a column ``length``, in tokens, for ``--train_sampling_strategy group_by_length``.

    Args:
        stage: its name, for messages.
        tokenizers: key of a batch -> tokenizer, to write out rows as texts.
    """

    def __init__(self, *args, stage: str, tokenizers: dict[str, PreTrainedTokenizerBase], **kwargs):
        super().__init__(*args, **kwargs)
        self.watch = FiniteWatch(stage, self.args.output_dir, tokenizers)
        self.add_callback(self.watch)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Gradients of a batch; raises `InputError` where its loss, or on a GPU that of the batch before, is not finite."""
        loss = self.gradients_of(model, inputs, num_items_in_batch)
        self.watch.note(loss, inputs, self.state.global_step + 1)
        return loss

    def gradients_of(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of a batch; the loss."""
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """NaN and infinity, as of a gradient whose step was left out, are None in the log, which checkpoints keep as JSON."""
        super().log(finite(logs), *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """The order of the training rows; the length-grouped one depends on seed and epoch alone."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        sampler = LengthGrouped(
            args.train_batch_size * args.gradient_accumulation_steps, rows[args.length_column_name], seed
        )
        self.add_callback(_EpochOfSampler(sampler))
        return sampler
