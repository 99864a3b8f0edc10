"""Rows of token ids as padded tensors, and the training set that mixes all attributes."""

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from common.rounding import round_up, rounded_rows
from common.schema import Schema
from dataset.compact import compact_dataset
from dataset.dialogues import Dialogue
from dataset.encoding import IGNORED, DialogueTemplate, encode_contexts, encode_for_decoder

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = 16  # that lengths are rounded up to a multiple of where work is recorded by shape


def pad(rows: list[list[int]], value: int, side: str = "right", length: int = 0) -> torch.Tensor:
    """Rows of unequal length as one [B, T] tensor, filled with `value` on the given side; T is at least `length`."""
    lengths = np.array([len(row) for row in rows])[:, np.newaxis]
    length = max(length, int(lengths.max()))
    columns = np.arange(length)
    filled = np.full((len(rows), length), value, dtype=np.int64)
    filled[columns < lengths if side == "right" else columns >= length - lengths] = list(
        itertools.chain.from_iterable(rows)
    )
    return torch.from_numpy(filled)


def pad_inputs(
    rows: list[dict[str, list[int]]], pad_token_id: int, side: str = "right"
) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` and, where present, ``token_type_ids`` of a batch, each [B, T]."""
    batch = {
        "input_ids": pad([row["input_ids"] for row in rows], pad_token_id, side),
        "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0, side),
    }
    if "token_type_ids" in rows[0]:
        batch["token_type_ids"] = pad([row["token_type_ids"] for row in rows], 0, side)
    return batch


def rounded(batch: dict[str, torch.Tensor], pad_token_id: int, longest: int) -> dict[str, torch.Tensor]:
    """A batch of `pad_inputs` with padding behind its texts, and with its last row again, up to a rounded shape.

    Args:
        longest: tokens that a text may have; lengths are not rounded up beyond.
    """
    count, width = batch["input_ids"].shape
    columns = max(width, min(round_up(width, COLUMNS), longest)) - width
    rows = rounded_rows(count) - count
    fill = {"input_ids": pad_token_id}
    return {
        name: torch.cat([wide, wide[-1:].expand(rows, -1)])
        for name, value in batch.items()
        for wide in [F.pad(value, (0, columns), value=fill.get(name, 0))]
    }


def batches_by_length(rows: list[dict], batch_size: int) -> list[list[int]]:
    """Which rows go together, at most `batch_size` of similar length: numbers of rows by the length of their ``input_ids``."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


class ClassifierCollator:
    """Rows of `encode_texts` or `encode_contexts` with a ``labels`` number -> a classifier's batch."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return pad_inputs(rows, self.pad_token_id) | {"labels": torch.tensor([row["labels"] for row in rows])}


def cvae_rows(
    dialogues: Iterable[tuple[list[int], bool, Dialogue]],
    encoder_tokenizer: PreTrainedTokenizerBase,
    decoder_tokenizer: PreTrainedTokenizerBase,
    template: DialogueTemplate,
    encoder_length: int,
    decoder_length: int,
    use_context: bool,
) -> list[dict]:
    """Token ids of (targets, classified, dialogue), as `CvaeCollator` takes them.

    The response is what both the posterior's and the decoder's input end with: how many tokens of each it has says token types
    and labels, which would take a third of the rows' memory.

    Args:
        dialogues: targets are an aspect's index per attribute, -1 where the dialogue is not labelled for it; classified says
            whether the latent heads learn from it.
    """
    targets, counted, records = zip(*dialogues)
    contexts, responses = [d.context for d in records], [d.response for d in records]
    prior = encode_contexts(encoder_tokenizer, contexts, None, encoder_length)
    posterior = encode_contexts(encoder_tokenizer, contexts, responses, encoder_length)
    decoder = encode_for_decoder(
        decoder_tokenizer, template, contexts, responses, decoder_length, use_context
    )
    return [
        {
            "targets": target,
            "classified": int(classified),
            "context_ids": c["input_ids"],
            "posterior_ids": p["input_ids"],
            "posterior_response": sum(p["token_type_ids"]),
            "decoder_ids": d["input_ids"],
            "decoder_response": sum(label != IGNORED for label in d["labels"]),
            "length": len(p["input_ids"]) + len(d["input_ids"]),
        }
        for target, classified, c, p, d in zip(targets, counted, prior, posterior, decoder)
    ]


def cvae_dataset(
    dialogues: Mapping[str, Iterable[Dialogue]],
    schema: Schema,
    *encoding,
    further: list[Dialogue] | None = None,
    classify_further: bool = True,
    **options,
) -> "Dataset":
    """The dialogues of all attributes as one `datasets.Dataset` with a ``length`` column for length-grouped batches.

    Every dialogue is labelled for all attributes that its tag names, whichever attribute's file it stands in.

    Args:
        dialogues: attribute name -> its labelled dialogues.
        encoding, options: as for `cvae_rows`.
        further: dialogues beside them, of one or several labels each.
        classify_further: whether the latent heads learn from those.
    """
    pairs = itertools.chain(
        (
            (schema.target_indices(dialogue.target), True, dialogue)
            for attribute in schema.attributes
            for dialogue in dialogues[attribute.name]
        ),
        ((schema.target_indices(dialogue.target), classify_further, dialogue) for dialogue in further or ()),
    )
    return compact_dataset(pairs, lambda some: cvae_rows(some, *encoding, **options))


class CvaeCollator:
    """Rows of `cvae_rows` -> the keyword arguments of `model.cvae.MiracleModel.forward`.

    Args:
        encoder_pad, decoder_pad: padding tokens.
        multiple: lengths are multiples of it, so that batches have few different shapes (`training.recorded_step`).
        longest: an encoder's longest input; padding does not go beyond it, as the encoder's position table may end there.
    """

    def __init__(self, encoder_pad: int, decoder_pad: int, multiple: int = 1, longest: int = 0):
        self.encoder_pad, self.decoder_pad, self.multiple, self.longest = (
            encoder_pad,
            decoder_pad,
            multiple,
            longest,
        )

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor | int]:
        """The decoder's columns are padded on the left, so that all responses end in the last column."""

        context, posterior, decoder = (
            [row[f"{part}_ids"] for row in rows] for part in ("context", "posterior", "decoder")
        )
        types = [_ending([0] * len(row["posterior_ids"]), [1] * row["posterior_response"]) for row in rows]
        labels = [_ending([IGNORED] * len(row["decoder_ids"]), row["decoder_ids"][-row["decoder_response"] :]) for row in rows]  # fmt: skip

        def length(ids: list[list[int]]) -> int:
            return round_up(max(map(len, ids)), self.multiple)

        def padded(ids: list[list[int]], value: int) -> torch.Tensor:
            return pad(ids, value, "right", min(length(ids), self.longest))

        def padded_left(ids: list[list[int]], value: int) -> torch.Tensor:
            return pad(ids, value, "left", length(ids))

        return {
            "context_ids": padded(context, self.encoder_pad),
            "context_mask": padded(_ones(context), 0),
            "posterior_ids": padded(posterior, self.encoder_pad),
            "posterior_mask": padded(_ones(posterior), 0),
            "posterior_types": padded(types, 0),
            "decoder_ids": padded_left(decoder, self.decoder_pad),
            "decoder_mask": padded_left(_ones(decoder), 0),
            "labels": padded_left(labels, IGNORED),
            "response_length": round_up(max(row["decoder_response"] for row in rows), self.multiple),
            "targets": torch.tensor([row["targets"] for row in rows]),
            "classified": torch.tensor([row["classified"] for row in rows], dtype=torch.bool),
        }


def _ones(rows: list[list[int]]) -> list[list[int]]:
    """An attention mask before padding."""
    return [[1] * len(row) for row in rows]


def _ending(row: list[int], end: list[int]) -> list[int]:
    """A row whose last numbers are others."""
    return row[: len(row) - len(end)] + end
