"""The order of the training rows: batches of similar length, shuffled by seed and epoch alone."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGrouped(Sampler[int]):
    """Rows in an order in which every batch has rows of similar length.

    The order is a function of (seed, epoch), whatever has been drawn from torch's generators before, so that a training
    that goes on in the middle of an epoch skips the batches that it has seen. `transformers`' sampler of this kind draws from
    torch's global generator. What it makes of a permutation is kept: the longest batch comes first.

    Args:
        batch_size: rows of a step.
        lengths: of all rows, in tokens.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int):
        self.batch_size, self.lengths, self.seed, self.epoch = batch_size, list(lengths), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is iterated next; `accelerate` and `Trainer` call it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        key = hashlib.blake2b(f"{self.seed} {self.epoch}".encode(), digest_size=8).digest()
        order = torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=order))
