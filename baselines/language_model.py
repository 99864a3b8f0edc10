"""A causal language model fine-tuned on the dialogues: what every baseline stands on, and as it is, the one without control.

Replies are written by `generation.decoding.generate`, the CVAE's own loop, so that a difference between methods is none of the
decoding.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from baselines.training import TrainingSetting, once, optimise
from common.errors import InputError
from common.schema import target_name
from dataset.batching import pad, pad_inputs
from dataset.dialogues import Dialogue
from dataset.encoding import IGNORED, Cut, DialogueTemplate, cuts, encode_for_decoder, prompt_length
from generation.choosing import CandidateScores, candidate_scores
from generation.likelihoods import positions_at_once
from generation.options import DecodingArguments, in_bf16
from generation.requests import Request
from generation.writing import decode_rows
from model.attention import group_attention
from model.cache import PrefixLayer, StaticPrefixCache
from model.decoder import (
    align_head,
    cache_shape,
    causal_mask,
    fuse_norms,
    mask_for,
    position_offset,
    positions_limit,
    positions_of,
)
from model.losses import context_loss, reconstruction_loss, token_losses
from model.noise import generators


class Step(NamedTuple):
    """What a decoder reads in one call: token ids [B, T], and which reply each row writes, [B]."""

    ids: torch.Tensor
    rows: torch.Tensor


def no_prefix(
    config: PreTrainedConfig, batch: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values per layer without any columns, [B, key/value heads, 0, head size]: what an empty `StaticPrefixCache` begins with."""
    layers, heads, size = cache_shape(config)
    nothing = torch.empty(batch, heads, 0, size, dtype=dtype, device=device)
    return [(nothing, nothing)] * layers


class PlainDecoder:
    """A causal LM behind the interface of `model.decoder.LatentDecoder` that `generate` decodes with.

    Where the CVAE's decoder has latents, this one has the numbers of the replies under way, [B], by which a method's own
    decoder looks up what it adds to each. Like there, nothing in `call` may read anything back from the device, so that a
    step can be recorded.
    """

    to_logits = None
    n_prefix = 0

    def __init__(self, lm: PreTrainedModel):
        self.lm, self.position_offset = lm, position_offset(lm)
        group_attention(lm)

    def to_offset(self, rows: torch.Tensor) -> torch.Tensor:
        """The numbers of the replies [B] as they are: `generate` keeps them for the rows still alive."""
        return rows

    def embed(self, ids: torch.Tensor, rows: torch.Tensor) -> Step:
        """What `call` reads; the language model embeds."""
        return Step(ids, rows)

    def prefix(self, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values per layer that stand in front of the prompt, each [B, key/value heads, n_prefix, head size]."""
        return no_prefix(self.lm.config, len(rows), self.lm.dtype, rows.device)

    def prefix_mask(self, rows: torch.Tensor) -> torch.Tensor:
        """1 for the positions of the prefix that count, [B, n_prefix]."""
        return torch.ones(len(rows), self.n_prefix, dtype=torch.long, device=rows.device)

    def start_cache(self, rows: torch.Tensor, room: int) -> StaticPrefixCache:
        """A cache with room for so many tokens behind the prefix, for generation."""
        return StaticPrefixCache(
            [(keys.to(self.lm.dtype), values.to(self.lm.dtype)) for keys, values in self.prefix(rows)], room
        )

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor, logits_to_keep: int = 0
    ) -> torch.Tensor:
        """Next-token logits [B, T, V] for ids and mask [B, T], with gradients; arguments as for `LatentDecoder.forward`."""
        cache = (
            Cache(layers=[PrefixLayer(*states) for states in self.prefix(rows)]) if self.n_prefix else None
        )
        seen = torch.cat([self.prefix_mask(rows), mask], dim=1)
        return self.call(
            Step(ids, rows), causal_mask(seen, ids.shape[1]), positions_of(mask), cache, logits_to_keep
        )

    def call(
        self,
        step: Step,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: Cache | None,
        logits_to_keep: int = 0,
    ) -> torch.Tensor:
        """One call of the language model.

        Args:
            mask: what each token may see, [B, 1, T, keys] (bool).
            position_ids: [B, T]; they count real tokens from 0.

        Returns:
            Logits [B, T, V], or of the last so many positions.
        """
        return self.lm(
            input_ids=step.ids,
            attention_mask=mask_for(self.lm, mask),
            position_ids=position_ids + self.position_offset,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=logits_to_keep,
        ).logits


def precise(model: nn.Module, how: DecodingArguments, device: torch.device) -> nn.Module:
    """The model, or a bf16 copy of it where replies are to be written in bf16: what is trained next still starts in fp32."""
    return copy.deepcopy(model).to(torch.bfloat16) if in_bf16(how.precision, device) else model


@dataclass(frozen=True)
class LanguageModel:
    """A causal LM with what it reads and writes text by."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: DialogueTemplate
    decoder_length: int
    device: torch.device

    def candidate_scores(
        self,
        attributes: torch.Tensor,
        contexts: list[tuple[str, ...]],
        replies: list[str],
        how: DecodingArguments,
    ) -> CandidateScores:
        """The replies' scores, [B] each: those of their `attributes`, and their likelihoods by the language model."""
        decoder = PlainDecoder(precise(self.lm, how, self.device))
        alike = torch.zeros(len(replies), device=self.device)  # the language model is given nothing
        behind = [
            encode_for_decoder(
                self.tokenizer, self.template, contexts, replies, self.decoder_length, use_context
            )
            for use_context in (True, False)
        ]
        positions = positions_at_once(self.device, len(self.tokenizer))
        return candidate_scores(
            attributes, *behind, decoder, alike, self.tokenizer.pad_token_id, how.batch_size, positions
        )

    def cuts(self, requests: list[Request], how: DecodingArguments) -> list[Cut | None]:
        """What the language model does not read of each context, so that its reply has room; None where it reads all of it."""
        room = prompt_length(positions_limit(self.lm), self.decoder_length, how.max_new_tokens)
        return cuts(self.tokenizer, self.template, [request.context for request in requests], room)

    def write(
        self, requests: list[Request], how: DecodingArguments, seed: int, decoder: Callable[[PreTrainedModel], PlainDecoder] = PlainDecoder,
        before: list[list[int]] | None = None, purpose: str = "decoding",
    ) -> list[str]:  # fmt: skip
        """One reply per request, in order; none depends on what else is in its batch.

        Args:
            decoder: makes a method's decoder from the language model in the precision of writing.
            before: token ids in front of each request's prompt.
            purpose: of the noise that ``top_p`` draws; another purpose, another sample.

        Raises:
            InputError: where the model has not enough positions for a reply.
        """
        room = prompt_length(positions_limit(self.lm), self.decoder_length, how.max_new_tokens)
        rows: list[dict] = [{}] * len(requests)
        fronts = before or [[]] * len(requests)
        for size in sorted(
            set(map(len, fronts))
        ):  # a prompt is cut by its own front, not by the longest in the call
            if room - size < 1:
                raise InputError(
                    f"--max-new-tokens {how.max_new_tokens} leaves no room for the context behind {size} tokens in front; the decoder has {room + how.max_new_tokens} positions"
                )
            indices = [index for index, front in enumerate(fronts) if len(front) == size]
            prompts = encode_for_decoder(
                self.tokenizer,
                self.template,
                [requests[index].context for index in indices],
                None,
                room - size,
            )
            for index, row in zip(indices, prompts):
                rows[index] = {"input_ids": fronts[index] + row["input_ids"]}
        sources = None
        if how.decoding == "top_p":
            sources = generators(
                seed, [(request.id, target_name(request.target)) for request in requests], purpose
            )
        writer = decoder(precise(self.lm, how, self.device))
        numbers = torch.arange(len(rows), device=self.device)
        return decode_rows(writer, numbers, rows, self.tokenizer, how, self.device, sources)


def training_rows(
    tokenizer: PreTrainedTokenizerBase,
    setting: TrainingSetting,
    dialogues: list[tuple[str, Dialogue]],
    before: dict[str, list[int]] | None = None,
) -> list[dict]:
    """Encoded dialogues: ``input_ids``, ``labels`` and the number of the aspect.

    Args:
        before: aspect -> token ids in front of its dialogues.
    """
    contexts, responses = [d.context for _, d in dialogues], [d.response for _, d in dialogues]
    longest = max(map(len, before.values())) if before else 0
    encoded = encode_for_decoder(
        tokenizer, setting.template, contexts, responses, setting.decoder_length - longest
    )
    number = {aspect: index for index, aspect in enumerate(setting.aspects)}
    fronts = [before[aspect] if before else [] for aspect, _ in dialogues]
    return [
        {
            "input_ids": front + row["input_ids"],
            "labels": [IGNORED] * len(front) + row["labels"],
            "aspect": number[aspect],
        }
        for (aspect, _), front, row in zip(dialogues, fronts, encoded)
    ]


class DialogueCollator:
    """Rows of `training_rows` -> a batch, padded on the left, so that all replies end in the last column."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor | int]:
        batch = pad_inputs(rows, self.pad_token_id, side="left")
        batch |= {
            "labels": pad([row["labels"] for row in rows], IGNORED, "left"),
            "aspect": torch.tensor([row["aspect"] for row in rows]),
        }
        return batch | {
            "response_length": max(sum(label != IGNORED for label in row["labels"]) for row in rows)
        }


def reply_loss(decoder: PlainDecoder, batch: dict, context_weight: float = 0.0) -> torch.Tensor:
    """Nats per token of the replies, plus those of the contexts times their weight; the aspects are the decoder's rows."""
    ids, mask, kept = (
        batch["input_ids"],
        batch["attention_mask"],
        0 if context_weight else batch["response_length"] + 1,
    )
    logits = decoder.forward(ids, mask, batch["aspect"], kept)
    losses = token_losses(logits, ids[:, -kept:])
    loss = reconstruction_loss(losses, batch["labels"][:, -kept:])
    return loss + context_weight * context_loss(losses, mask, batch["labels"]) if context_weight else loss


def fine_tune(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    setting: TrainingSetting,
    name: str,
) -> LanguageModel:
    """Train all weights of a base on encoded dialogues; `lm` itself is trained."""
    if isinstance(head := lm.get_output_embeddings(), nn.Linear):
        align_head(head)
    fuse_norms(lm)
    decoder = PlainDecoder(lm)
    optimise(
        name,
        lm,
        rows,
        DialogueCollator(tokenizer.pad_token_id),
        lambda batch: reply_loss(decoder, batch, setting.context_weight),
        setting,
        setting.epochs,
    )
    return LanguageModel(lm, tokenizer, setting.template, setting.decoder_length, setting.device)


def uncontrolled(setting: TrainingSetting, shared: dict) -> LanguageModel:
    """The base fine-tuned on all dialogues without their labels; trained once for all methods of a run."""

    def make() -> LanguageModel:
        with setting.seeded("uncontrolled"):
            lm, tokenizer = setting.base()
            model = fine_tune(
                lm,
                tokenizer,
                training_rows(tokenizer, setting, setting.dialogues(shared)),
                setting,
                "uncontrolled",
            )
            model.lm.requires_grad_(False)  # methods that stand on it leave it as it is
            return model

    return once(setting, shared, "uncontrolled", make)


class Uncontrolled:
    """The fine-tuned language model as it is: targets do not matter, except that each has its own noise."""

    name = "uncontrolled"
    has_strength = False

    def __init__(self, model: LanguageModel):
        self.model = model

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Uncontrolled":
        """See `baselines.registry.Baseline`."""
        return cls(uncontrolled(setting, shared))

    def write(self, requests: list[Request], how: DecodingArguments, strength: float, seed: int) -> list[str]:
        """See `baselines.registry.Baseline`; strength does not matter."""
        return self.model.write(requests, how, seed)
