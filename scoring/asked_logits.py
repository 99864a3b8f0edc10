"""Classifiers' logits of many rows, asked for at once and fetched from the device in one piece.

On a GPU asking only launches kernels, so that whoever asks can do something else before he fetches; a fetch for every
batch would wait for the device each time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from dataset.batching import batches_by_length, pad_inputs
from model.transfers import Arriving
from scoring.recorded_forward import RecordedForward

LONG = 1000  # rows, from which on a bar tells how far it is


@dataclass(frozen=True)
class Reading:
    """Rows and who reads them.

    Attributes:
        rows: encoded, with ``input_ids`` and what else the classifiers take.
    """

    rows: list[dict]
    forward: RecordedForward
    pad_token_id: int

    def batches(self, batch_size: int) -> list[list[int]]:
        """Numbers of rows that are read together, of similar length; where passes are recorded the batches are equally
        large, so that they have few shapes."""
        if self.forward.recordings.wanted and self.rows:
            batch_size = -(-len(self.rows) // -(-len(self.rows) // batch_size))
        return batches_by_length(self.rows, batch_size)


class AskedLogits:
    """Logits that are on their way.

    Args:
        readings: of one device.
        batch_size: rows at once.
        name: for the bar.
    """

    def __init__(self, readings: list[Reading], batch_size: int = 64, name: str = "scoring"):
        self._work = [(reading, reading.batches(batch_size)) for reading in readings]
        self._shapes: list[torch.Size] = []
        parts = list(self._asked(name))
        self._flat = Arriving(torch.cat(parts) if parts else torch.empty(0))

    @torch.no_grad()
    def _asked(self, name: str) -> Iterator[torch.Tensor]:
        rows = max((len(reading.rows) for reading, _ in self._work), default=0)
        total = sum(len(batches) for _, batches in self._work)
        with tqdm(desc=name, total=total, leave=False, disable=rows < LONG or None) as bar:
            for reading, batches in self._work:
                for chosen in batches:
                    batch = pad_inputs([reading.rows[index] for index in chosen], reading.pad_token_id)
                    logits = reading.forward(batch, reading.pad_token_id)
                    self._shapes.append(logits.shape)
                    yield logits.float().flatten().clone()  # the next pass may write into the same memory
                    bar.update()

    def fetch(self) -> list[np.ndarray]:
        """Logits [N, labels] in fp64 of every reading, in the order of its rows; waits for the device, for these alone."""
        parts = iter(self._flat.wait().split([shape.numel() for shape in self._shapes]))
        shapes, found = iter(self._shapes), []
        for reading, batches in self._work:
            pieces = [next(parts).view(next(shapes)).numpy() for _ in batches]
            whole = np.zeros((len(reading.rows), pieces[0].shape[1] if pieces else 0))
            for chosen, piece in zip(batches, pieces):
                whole[chosen] = piece
            found.append(whole)
        return found
