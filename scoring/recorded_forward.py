"""A classifier's forward pass on a GPU, recorded once for every rounded shape of batch (`model.graphs`)."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from dataset.batching import rounded
from model.graphs import Recordings, recorded


class RecordedForward:
    """Logits of batches. A small classifier's pass is a hundred kernels, each done before the next has been asked for.

    Args:
        longest: tokens that a text may have; lengths are not rounded up beyond.

    Attributes:
        recordings: of the passes so far.
    """

    def __init__(self, model: PreTrainedModel, longest: int):
        self.longest = longest
        self.recordings = Recordings(lambda inputs: model(**inputs).logits, model.device)

    def __call__(
        self,
        batch: dict[str, torch.Tensor],
        pad_token_id: int,
        record: Callable[[Callable[[], object]], Callable[[], None] | None] = recorded,
    ) -> torch.Tensor:
        """Logits [B, labels], on the model's device, of a batch as `dataset.batching.pad_inputs` gives it.

        What is returned counts until the next call.
        """
        if not self.recordings.wanted:
            return self.recordings(batch)
        wider = rounded(batch, pad_token_id, self.longest)
        return self.recordings(wider, record)[: len(batch["input_ids"])]
