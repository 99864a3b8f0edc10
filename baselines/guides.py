"""Guides: classifiers that tell an attribute's aspect from the beginning of a reply; they steer, and never judge.

FUDGE's future discriminators (Yang & Klein, NAACL 2021, section 3): each is trained on every prefix of the training
replies, on the label of the whole. They read the reply alone, behind the mark of the speaker. A guide is the uncontrolled
language model fine-tuned further, with a linear head on the state of every position, so that one pass judges all prefixes
and decoding can keep its states. Nothing of the evaluators is in them: base, seed and kind of model are others.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel

from baselines.language_model import DialogueCollator, LanguageModel, uncontrolled
from baselines.training import TrainingSetting, once, optimise
from dataset.dialogues import read_dialogues
from dataset.encoding import IGNORED, encode_for_decoder
from schema import Attribute


class Guide(nn.Module):
    """One attribute's classifier."""

    def __init__(self, lm: PreTrainedModel, n_aspects: int):
        super().__init__()
        self.trunk, self.head = lm.base_model, nn.Linear(lm.config.hidden_size, n_aspects)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the aspects given each prefix, [B, T, aspects], of ids and mask [B, T], padded on the left."""
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        states = self.trunk(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
        return torch.log_softmax(self.head(states).float(), dim=-1)

    def candidates(self, read: torch.Tensor, tokens: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Log-probabilities of the aspects given the reply so far and each candidate token, [B, k, aspects].

        Exact, in one pass: the candidates are read side by side at the same next position, and a mask lets each see the
        reply so far and itself alone. Their states are dropped from the cache, those of `read` stay.

        Args:
            read: [B, T], what has been written since the last call.
            tokens: [B, k].
            cache: of what was read before, without padding; it grows by `read`.
        """
        (batch, new), k, past = read.shape, tokens.shape[1], cache.get_seq_length()
        sees = torch.ones(new + k, past + new + k, dtype=torch.bool, device=read.device).tril(past)
        sees[new:, past + new :] = torch.eye(k, dtype=torch.bool, device=read.device)
        mask = torch.zeros(sees.shape, dtype=self.trunk.dtype, device=read.device).masked_fill(~sees, torch.finfo(self.trunk.dtype).min)
        positions = torch.arange(past, past + new + k, device=read.device).clamp_max(past + new)
        states = self.trunk(
            input_ids=torch.cat([read, tokens], dim=1),
            attention_mask=mask.expand(batch, 1, -1, -1),
            position_ids=positions.expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, new:]
        cache.crop(-k)
        return torch.log_softmax(self.head(states).float(), dim=-1)


def encode_replies(model: LanguageModel, replies: list[str]) -> list[dict]:
    """What a guide reads: the mark of the reply, the reply and its end, as ``input_ids`` and ``labels``."""
    return encode_for_decoder(model.tokenizer, model.template, [()] * len(replies), replies, model.decoder_length, use_context=False)


@torch.no_grad()
def judge(guide: Guide, model: LanguageModel, replies: list[str], batch_size: int = 512) -> torch.Tensor:
    """Log-probabilities of the aspects given whole replies, [N, aspects]."""
    rows = encode_replies(model, replies)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    result = torch.zeros(len(rows), guide.head.out_features, device=model.device)
    collate = DialogueCollator(model.tokenizer.pad_token_id)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = collate([rows[index] | {"aspect": 0} for index in chosen])
        result[torch.tensor(chosen)] = guide(batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device))[:, -1]
    return result


def train_guide(attribute: Attribute, setting: TrainingSetting, shared: dict) -> Guide:
    """A guide for one attribute, from its training replies; its accuracy on whole dev replies is printed where there are any."""
    model, name = uncontrolled(setting, shared), f"guide {attribute.name}"
    with setting.seeded(name):
        lm = copy.deepcopy(model.lm).requires_grad_(True)
        guide = Guide(lm, len(attribute.aspects)).to(setting.device)
        own = [(attribute.index(aspect), dialogue) for aspect, dialogue in setting.dialogues(shared) if aspect in attribute.aspects]
        encoded = encode_replies(model, [dialogue.response for _, dialogue in own])
        rows = [row | {"aspect": aspect} for (aspect, _), row in zip(own, encoded)]

        def loss_of(batch: dict) -> torch.Tensor:
            expected = torch.where(batch["labels"] == IGNORED, IGNORED, batch["aspect"].unsqueeze(1))
            return F.nll_loss(guide(batch["input_ids"], batch["attention_mask"]).flatten(0, 1), expected.flatten(), ignore_index=IGNORED)

        collate, new = DialogueCollator(model.tokenizer.pad_token_id), frozenset(guide.head.parameters())
        optimise(name, guide, rows, collate, loss_of, setting, setting.guide_epochs, new)
    if attribute.dev_dialogues is not None:
        dev = read_dialogues(setting.schema.existing(attribute.dev_dialogues), setting.schema, attribute, labelled=True)
        heard = judge(guide, model, [dialogue.response for dialogue in dev]).argmax(-1).tolist()
        right = sum(index == attribute.index(dialogue.target[attribute.name]) for index, dialogue in zip(heard, dev))
        print(f"{name}: dev accuracy {right / len(dev):.3f} on {len(dev)} whole replies", flush=True)
    return guide.requires_grad_(False)


def guides(setting: TrainingSetting, shared: dict) -> list[Guide]:
    """The guides of all attributes in schema order; trained once for all methods of a run."""
    return once(setting, shared, "guides", lambda: [train_guide(attribute, setting, shared) for attribute in setting.schema.attributes])
