"""Perplexity of replies in their context, by an external causal language model."""

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dataset.batching import batches_by_length, pad, pad_inputs
from dataset.chat_template import template_of
from dataset.encoding import IGNORED, DialogueTemplate, encode_for_decoder
from model.bases import load_decoder, load_decoder_tokenizer


class PerplexityModel:
    """A causal LM as it is, not fine-tuned; its chat template's marks, where it has one, stand before those given."""

    def __init__(self, name: str, template: DialogueTemplate, device: torch.device):
        self.name = name
        self.tokenizer: PreTrainedTokenizerBase = load_decoder_tokenizer(name)
        self.template = template_of(self.tokenizer, template)
        self.model: PreTrainedModel = load_decoder(name).to(device).eval()
        limit = getattr(self.model.config, "max_position_embeddings", 1024)
        self.max_length = min(512, limit)

    def score(self, rows: list[dict]) -> None:
        """Write ``nats`` and ``tokens`` into generations."""
        found = self.negative_log_likelihoods(
            [tuple(row["context"]) for row in rows], [row["response"] for row in rows]
        )
        for row, nats, tokens in zip(rows, *found):
            row["nats"], row["tokens"] = round(nats, 4), tokens

    @torch.no_grad()
    def negative_log_likelihoods(
        self, contexts: list[tuple[str, ...]], replies: list[str], batch_size: int = 32
    ) -> tuple[list[float], list[int]]:
        """Nats and number of tokens of every reply given its context; the end of the reply is not counted.

        An empty reply has no tokens and counts nothing; nothing is dropped.
        """
        rows = encode_for_decoder(self.tokenizer, self.template, contexts, replies, self.max_length)
        nats, tokens = [0.0] * len(rows), [0] * len(rows)
        batches = batches_by_length(rows, batch_size)
        device = self.model.device
        for chosen in tqdm(batches, desc="perplexity", leave=False, disable=len(rows) < 1000 or None):
            batch = pad_inputs([rows[index] for index in chosen], self.tokenizer.pad_token_id)
            labels = pad([[*rows[index]["labels"][:-1], IGNORED] for index in chosen], IGNORED).to(device)
            logits = (
                self.model(**{key: value.to(device) for key, value in batch.items()}).logits[:, :-1].float()
            )
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
            )
            for index, loss, count in zip(
                chosen, losses.sum(1).tolist(), (labels[:, 1:] != IGNORED).sum(1).tolist()
            ):
                nats[index], tokens[index] = loss, count
        return nats, tokens
