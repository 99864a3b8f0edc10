"""What the trainers of all stages share: `transformers.Trainer` in an order of batches that a resumed training repeats."""

from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback

from dataset.sampling import LengthGrouped


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler the epoch; with several processes a resumed `DataLoader` of `accelerate` does not."""

    def __init__(self, sampler: LengthGrouped):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        """`state.epoch` is whole at the end of an epoch, and has a fraction where training goes on within one."""
        self.sampler.set_epoch(int(state.epoch or 0))


class StageTrainer(Trainer):
    """A `Trainer` whose datasets have a column ``length``, in tokens, for ``--train_sampling_strategy group_by_length``."""

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
