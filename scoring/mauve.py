"""MAUVE: how near the replies, taken together, are to people's (Pillutla et al., NeurIPS 2021; JMLR 2023).

Both sets of texts are embedded by a causal LM and put into clusters together; the two histograms over the clusters are compared
by the area under the curve of their divergences from mixtures of the two. It is the package `mauve-text`, which is optional:
``pip install mauve-text``. Its own features come from a GPT-2 of the Hugging Face hub; ours come from the local, un-tuned LM that
measures perplexity, so that nothing is downloaded. Values are comparable only where this model, the references and the number of
texts are the same.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.errors import InputError
from dataset.batching import batches_by_length, pad_inputs
from scoring.perplexity import PerplexityModel

MOST = 5000  # texts a side; the authors' own number
FEW = 2000  # "at least a few thousand samples" a side, the package's README, "Best Practices"; fewer bias it upwards
TOO_FEW = 100  # under these there are fewer than ten clusters, and no value is given
BATCH = 32


@dataclass(frozen=True)
class Mauve:
    """What MAUVE says of some replies.

    Attributes:
        value: in [0, 1], 1 = the two sets cannot be told apart; None under `TOO_FEW` texts.
        texts: a side, as many replies as references.
        replies, references: how many there were to draw from.
        model: whose features it stands on.
    """

    value: float | None
    texts: int
    replies: int
    references: int
    model: str

    def record(self) -> dict:
        """As ``results.json`` has it."""
        return {
            "texts": self.texts,
            "replies": self.replies,
            "references": self.references,
            "model": self.model,
        }

    def warnings(self) -> list[str]:
        """What speaks against the number."""
        if self.texts >= FEW:
            return []
        counts = f"{self.replies} replies and {self.references} people's replies"
        if self.value is None:
            return [
                f"MAUVE: not computed from {counts}; {TOO_FEW} of each are the least, a few thousand enough"
            ]
        return [
            f"MAUVE stands on {self.texts} texts a side (of {counts}); under {FEW} it is too high and varies, so compare only values of as many texts"
        ]


def mauve(
    replies: Sequence[str], references: Sequence[str], language_model: PerplexityModel, seed: int = 0
) -> Mauve:
    """MAUVE of replies against people's.

    Both sides are cut to the same number by a seeded draw, `MOST` at most, because the value depends on it. Replies are embedded
    alone: with their contexts, which both sides share, the two would always be alike.

    Raises:
        InputError: without the package.
    """
    compute = _package()
    n = min(len(replies), len(references), MOST)
    name = language_model.name
    if n < TOO_FEW:
        return Mauve(None, n, len(replies), len(references), name)
    theirs, ours = (_features(_drawn(texts, n, seed), language_model) for texts in (references, replies))
    found = compute(p_features=theirs, q_features=ours, seed=seed, verbose=False)
    return Mauve(float(found.mauve), n, len(replies), len(references), name)


def check_package() -> None:
    """Raises `InputError` where `mauve-text` is not installed."""
    _package()


def _package():
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise InputError(f"MAUVE needs a package: pip install mauve-text ({error})") from None
    return compute_mauve


def _drawn(texts: Sequence[str], n: int, seed: int) -> list[str]:
    return list(texts) if len(texts) == n else random.Random(seed).sample(list(texts), n)


def _features(texts: list[str], language_model: PerplexityModel) -> np.ndarray:
    return last_states(
        language_model.model, language_model.tokenizer, texts, language_model.max_length
    ).numpy()


@torch.no_grad()
def last_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int
) -> torch.Tensor:
    """The last layer's hidden state at each text's last token, [N, D] in float32; of an empty text, at the end-of-text token."""
    rows = [
        {
            "input_ids": tokenizer.encode(text, add_special_tokens=False)[:max_length]
            or [tokenizer.eos_token_id]
        }
        for text in texts
    ]
    found = [torch.empty(0)] * len(rows)
    for chosen in batches_by_length(rows, BATCH):
        batch = pad_inputs([rows[index] for index in chosen], tokenizer.pad_token_id)
        inputs = {key: value.to(model.device) for key, value in batch.items()}
        states = model.base_model(**inputs).last_hidden_state  # [B, T, D]
        last = inputs["attention_mask"].sum(1) - 1  # padding stands on the right
        for index, row, end in zip(chosen, states, last.tolist()):
            found[index] = row[end].float().cpu()
    return torch.stack(found)
