"""Classifiers' forward pass on a GPU, recorded once for every rounded shape of batch (`model.graphs`)."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from dataset.batching import rounded
from model.graphs import Recordings, recorded

MOST = 64  # shapes: rows have seven up to 64, lengths half a dozen


class RecordedForward:
    """Logits of batches. A small classifier's pass is a hundred kernels, each done before the next has been asked for.

    Args:
        models: that read the same batches, on one device.
        longest: tokens that a text may have; lengths are not rounded up beyond.

    Attributes:
        recordings: of the passes so far.
    """

    def __init__(self, models: Sequence[PreTrainedModel], longest: int):
        self.models, self.longest = tuple(models), longest
        self.recordings = Recordings(self._logits, self.models[0].device, MOST)

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        found = [model(**inputs).logits for model in self.models]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def __call__(
        self,
        batch: dict[str, torch.Tensor],
        pad_token_id: int,
        record: Callable[[Callable[[], object]], Callable[[], None] | None] = recorded,
    ) -> torch.Tensor:
        """Logits [B, labels of all models], on the models' device, of a batch as `dataset.batching.pad_inputs` gives it.

        What is returned counts until the next call.
        """
        if not self.recordings.wanted:
            return self.recordings(batch)
        wider = rounded(batch, pad_token_id, self.longest)
        return self.recordings(wider, record)[: len(batch["input_ids"])]
