"""Guides: classifiers that tell an attribute's aspect from the beginning of a reply; they steer, and never score.

FUDGE's future discriminators (Yang & Klein, NAACL 2021, section 3): each is trained on every prefix of the training
replies, on the label of the whole. They read the reply alone, behind the mark of the speaker. A guide is the uncontrolled
language model fine-tuned further, with a linear head on the state of every position, so that one pass classifies all prefixes
and decoding can keep its states. Nothing of the evaluators is in them: base, seed and kind of model are others.
"""

import copy
from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from baselines.language_model import DialogueCollator, LanguageModel, no_prefix, uncontrolled
from baselines.training import TrainingSetting, once, optimise
from common.schema import Attribute, Schema
from dataset.batching import batches_by_length
from dataset.dialogues import read_dialogues
from dataset.encoding import IGNORED, encode_for_decoder
from generation.choosing import CandidateScores, best_of, check_weights
from generation.options import DecodingArguments
from generation.requests import Request
from model.cache import StaticPrefixCache
from model.decoder import causal_mask, mask_for, positions_of


class GuideCache(StaticPrefixCache):
    """A guide's cache: in front a column for each candidate of a step, which the next step overwrites, behind them the reply.

    Attributes:
        candidates: how many columns are in front.
        read: tokens of the reply that are in it, [1]: on the device, so that a recorded step can go on.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        batch: int,
        candidates: int,
        longest: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(no_prefix(config, batch, dtype, device), candidates + longest)
        self.candidates, self.read = candidates, torch.zeros(1, dtype=torch.long, device=device)


class Guide(nn.Module):
    """One attribute's classifier."""

    def __init__(self, lm: PreTrainedModel, n_aspects: int):
        super().__init__()
        self.trunk, self.head = lm.base_model, nn.Linear(lm.config.hidden_size, n_aspects)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the aspects given each prefix, [B, T, aspects], of ids and mask [B, T], padded on the left."""
        sees = mask_for(self.trunk, causal_mask(mask, ids.shape[1]))
        states = self.trunk(
            input_ids=ids, attention_mask=sees, position_ids=positions_of(mask), use_cache=False
        ).last_hidden_state
        return torch.log_softmax(self.head(states).float(), dim=-1)

    def start_cache(self, batch: int, candidates: int, longest: int) -> GuideCache:
        """An empty cache for replies of so many tokens, their beginning's mark included, and so many candidates a step."""
        return GuideCache(self.trunk.config, batch, candidates, longest, self.trunk.dtype, self.trunk.device)

    def candidates(self, read: torch.Tensor, tokens: torch.Tensor, cache: GuideCache) -> torch.Tensor:
        """Log-probabilities of the aspects given the reply so far and each candidate token, [B, k, aspects].

        Exact, in one pass: the candidates are read side by side at the same next position, and a mask lets each see the
        reply so far and itself alone. The next call overwrites their states in the cache, those of `read` stay.

        Args:
            read: [B, T], what has been written since the last call.
            tokens: [B, k], k no more than the cache has columns for.
            cache: of what was read before, without padding; `read` is added.
        """
        (batch, new), k, device = read.shape, tokens.shape[1], read.device
        number, known = torch.arange(new + k, device=device), cache.read + new
        positions = cache.read + number.clamp_max(new)
        columns = torch.where(number < new, cache.candidates + positions, number - new)
        column = torch.arange(cache.room, device=device)
        so_far = (column >= cache.candidates) & (
            column - cache.candidates <= torch.minimum(positions, known - 1).unsqueeze(1)
        )
        sees = so_far | (column == columns.unsqueeze(1))  # [T + k, room]
        cache.set_columns(columns, cache.room)
        states = self.trunk(
            input_ids=torch.cat([read, tokens], dim=1),
            attention_mask=mask_for(self.trunk, sees).expand(batch, 1, -1, -1),
            position_ids=positions.expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, new:]
        cache.read += new
        return torch.log_softmax(self.head(states).float(), dim=-1)


def encode_replies(model: LanguageModel, replies: list[str]) -> list[dict]:
    """What a guide reads: the mark of the reply, the reply and its end, as ``input_ids`` and ``labels``."""
    return encode_for_decoder(
        model.tokenizer, model.template, [()] * len(replies), replies, model.decoder_length, use_context=False
    )


@torch.no_grad()
def classify(guide: Guide, model: LanguageModel, replies: list[str], batch_size: int = 512) -> torch.Tensor:
    """Log-probabilities of the aspects given whole replies, [N, aspects]."""
    rows = encode_replies(model, replies)
    result = torch.zeros(len(rows), guide.head.out_features, device=model.device)
    collate = DialogueCollator(model.tokenizer.pad_token_id)
    for indices in batches_by_length(rows, batch_size):
        batch = collate([rows[index] | {"aspect": 0} for index in indices])
        result[torch.tensor(indices)] = guide(
            batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
        )[:, -1]
    return result


def sample_name(number: int) -> str:
    """The purpose of the noise of one of several samples; the first is that of a method which samples once."""
    return f"decoding {number}" if number else "decoding"


def train_guide(attribute: Attribute, setting: TrainingSetting, shared: dict) -> Guide:
    """A guide for one attribute, from its training replies; its accuracy on whole dev replies is printed where there are any."""
    model, name = uncontrolled(setting, shared), f"guide {attribute.name}"
    with setting.seeded(name):
        lm = copy.deepcopy(model.lm).requires_grad_(True)
        guide = Guide(lm, len(attribute.aspects)).to(setting.device)
        labelled = [
            (attribute.index(aspect), dialogue)
            for aspect, dialogue in setting.dialogues(shared)
            if aspect in attribute.aspects
        ]
        encoded = encode_replies(model, [dialogue.response for _, dialogue in labelled])
        rows = [row | {"aspect": aspect} for (aspect, _), row in zip(labelled, encoded)]

        def loss_of(batch: dict) -> torch.Tensor:
            expected = torch.where(batch["labels"] == IGNORED, IGNORED, batch["aspect"].unsqueeze(1))
            return F.nll_loss(
                guide(batch["input_ids"], batch["attention_mask"]).flatten(0, 1),
                expected.flatten(),
                ignore_index=IGNORED,
            )

        collate, new = DialogueCollator(model.tokenizer.pad_token_id), frozenset(guide.head.parameters())
        optimise(name, guide, rows, collate, loss_of, setting, setting.guide_epochs, new)
    if attribute.dev_dialogues is not None:
        dev = read_dialogues(
            setting.schema.existing(attribute.dev_dialogues), setting.schema, attribute, labelled=True
        )
        predicted = classify(guide, model, [dialogue.response for dialogue in dev]).argmax(-1).tolist()
        right = sum(
            index == attribute.index(dialogue.target[attribute.name])
            for index, dialogue in zip(predicted, dev)
        )
        print(f"{name}: dev accuracy {right / len(dev):.3f} on {len(dev)} whole replies", flush=True)
    return guide.requires_grad_(False)


def guides(setting: TrainingSetting, shared: dict) -> list[Guide]:
    """The guides of all attributes in schema order; trained once for all methods of a run."""
    return once(
        setting,
        shared,
        "guides",
        lambda: [train_guide(attribute, setting, shared) for attribute in setting.schema.attributes],
    )


class Guided(ABC):
    """A method of the uncontrolled language model and its guides, all of them trained once for a run."""

    def __init__(self, model: LanguageModel, guides: list[Guide], schema: Schema):
        self.model, self.guides, self.schema = model, guides, schema

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Guided":
        """See `baselines.registry.Baseline`."""
        return cls(uncontrolled(setting, shared), guides(setting, shared), setting.schema)

    def targets(self, requests: list[Request]) -> torch.Tensor:
        """[N, K] aspect indices, -1 where an attribute is not named."""
        return torch.tensor(
            [self.schema.target_indices(request.target) for request in requests], device=self.model.device
        )

    def choose(
        self,
        requests: list[Request],
        samples: list[list[str]],
        how: DecodingArguments,
        fluency: float,
        relevance: float,
    ) -> list[str]:
        """Of several replies per request the best, as `generation.choosing` weighs them for our model too.

        Args:
            samples: so many times a reply to every request; of one there is nothing to choose.
            fluency, relevance: weights, see `generation.choosing.CandidateScores`.

        Raises:
            InputError: for a weight under 0.
        """
        check_weights(fluency=fluency, relevance=relevance)
        if len(samples) == 1:
            return samples[0]
        return best_of(
            samples,
            self.candidate_scores(requests, samples, how, likelihoods=fluency > 0 or relevance > 0),
            fluency,
            relevance,
        )

    @abstractmethod
    def samples(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, **options
    ) -> list[list[str]]:
        """What `write` chooses from, so many times a reply to every request; arguments as there."""

    def candidate_scores(
        self,
        requests: list[Request],
        samples: list[list[str]],
        how: DecodingArguments,
        likelihoods: bool = True,
        known: CandidateScores | None = None,
    ) -> CandidateScores:
        """The scores of every sample, those of a request one after the other.

        What the guides predict is the sum over the named attributes of log P(aspect | whole reply), -inf for an empty one; the
        likelihoods, if they are wanted, are the language model's.

        Args:
            known: scores of these samples that were computed before; what the guides predict is taken from there.
        """
        replies = [sample[index] for index in range(len(requests)) for sample in samples]
        attribute_values = (
            self.attribute_scores(requests, replies, len(samples), how) if known is None else known.attributes
        )
        if not likelihoods:
            return CandidateScores(attribute_values)
        return self.model.candidate_scores(
            attribute_values, [request.context for request in requests for _ in samples], replies, how
        )

    def attribute_scores(
        self, requests: list[Request], replies: list[str], n: int, how: DecodingArguments
    ) -> torch.Tensor:
        """Log-probability of the named aspects in each of n replies to every request, [N * n], on the CPU."""
        attribute_values = torch.zeros(len(replies), device=self.model.device)
        for guide, target in zip(self.guides, self.targets(requests).repeat_interleave(n, 0).unbind(1)):
            opinions = classify(guide, self.model, replies, how.batch_size)
            attribute_values += opinions.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1) * (
                target >= 0
            )
        attribute_values[[not reply.strip() for reply in replies]] = -torch.inf  # as in our model's choice
        return attribute_values.cpu()
