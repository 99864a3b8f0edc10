"""What the trainers of all stages share: an order of batches that a resumed training repeats, and a stop at what is not finite."""

from collections.abc import Callable
from typing import ClassVar

import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from common import processes
from common.jsonl import finite
from dataset.sampling import LengthGrouped
from dataset.sharing import FilledCollator, RowsAndFillers, SharedBatches, without_labels
from training.watch import FiniteWatch


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler the epoch; with several processes a resumed `DataLoader` of `accelerate` does not."""

    def __init__(self, sampler: LengthGrouped | SeedableRandomSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        """`state.epoch` is whole at the end of an epoch, and has a fraction where training goes on within one."""
        self.sampler.set_epoch(int(state.epoch or 0))


class StageTrainer(Trainer):
    """A `Trainer` whose datasets have a column ``length``, in tokens, for ``--train_sampling_strategy group_by_length``.

    Several processes (`common.processes`) train as one does with their number times the rows of a step: a step's rows are
    shared out (`dataset.sharing`), and losses are means over the rows of all.

    Attributes:
        blank: what makes of a batch one that counts nothing.

    Args:
        stage: its name, for messages.
        tokenizers: key of a batch -> tokenizer, to write out rows as texts.
    """

    blank: ClassVar[Callable[[dict], dict]] = staticmethod(without_labels)

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

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process's own; what says that a checkpoint is whole is written behind the last of them."""
        super()._save_rng_state(output_dir)
        processes.wait_for_all()

    def get_train_dataloader(self) -> DataLoader:
        """The training batches; of several processes this one's rows of them."""
        if not processes.several():
            return super().get_train_dataloader()
        return self.shared_loader(
            self.train_dataset, self._order(self.train_dataset), self.args.train_batch_size
        )

    def shared_loader(self, rows: Dataset, order: Sampler, batch_size: int) -> DataLoader:
        """This process's rows of batches of all processes, with `batch_size` rows of each."""
        args, world = self.args, self.args.world_size
        drop_last = rows is self.train_dataset and args.dataloader_drop_last
        loader = DataLoader(
            RowsAndFillers(rows),
            batch_sampler=SharedBatches(order, batch_size * world, drop_last, args.process_index, world),
            collate_fn=FilledCollator(self.data_collator, self.blank),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        )
        return prepare_data_loader(loader, args.device, 1, 0, put_on_device=True, use_seedable_sampler=False)

    def _order(self, rows: Dataset) -> Sampler:
        """The same in all processes, and that of one process."""
        if self.args.train_sampling_strategy == "sequential":
            return SequentialSampler(rows)
        if self.args.train_sampling_strategy == "group_by_length":
            return self._get_train_sampler(rows)
        sampler = SeedableRandomSampler(rows, data_seed=self._data_seed)
        self.add_callback(_EpochOfSampler(sampler))
        return sampler

    def eval_order(self, rows: Dataset) -> Sampler:
        """The order of evaluation for batches of all processes, that of one process with as many rows in a batch."""
        if self.args.train_sampling_strategy != "group_by_length":
            return SequentialSampler(rows)
        size, lengths = self.args.eval_batch_size * self.args.world_size, rows[self.args.length_column_name]
        generator = torch.Generator().manual_seed(self._data_seed)
        return LengthGroupedSampler(size, dataset=rows, lengths=lengths, generator=generator)

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """The order of the training rows; the length-grouped one depends on seed and epoch alone."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)
        args = self.args
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        sampler = LengthGrouped(size, rows[args.length_column_name], self._data_seed)
        self.add_callback(_EpochOfSampler(sampler))
        return sampler
