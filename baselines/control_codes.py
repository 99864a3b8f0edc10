"""Control codes: one new token per aspect, in front of the dialogue (CTRL, Keskar et al., 2019).

A training dialogue has the code of the one aspect that it is labelled for; at test time all codes of the target stand in
front, in schema order, which training has never shown. A code's embedding starts as the mean of its name's, so that the
codes of a small corpus need not be learnt from scratch.
"""

import torch
from transformers import AddedToken

from baselines.language_model import LanguageModel, fine_tune, training_rows
from baselines.training import TrainingSetting
from common.errors import InputError
from dataset.encoding import text_ids
from generation.options import DecodingArguments
from generation.requests import Request


class ControlCodes:
    """A language model that reads the codes of aspects."""

    name = "control_codes"
    has_strength = False

    def __init__(self, model: LanguageModel, codes: dict[str, int]):
        self.model, self.codes = model, codes

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "ControlCodes":
        """See `baselines.registry.Baseline`."""
        with setting.seeded(cls.name):
            lm, tokenizer = setting.base()
            names = [f"<|{aspect}|>" for aspect in setting.aspects]
            if known := [name for name in names if name in tokenizer.get_vocab()]:
                raise InputError(
                    f"control codes: the base's vocabulary has {known} already; rename these aspects"
                )
            words = text_ids(tokenizer, setting.aspects)
            tokenizer.add_tokens(
                [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
            )
            if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
                lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            codes = dict(zip(setting.aspects, tokenizer.convert_tokens_to_ids(names)))
            table = lm.get_input_embeddings().weight
            with torch.no_grad():
                for code, ids in zip(codes.values(), words):
                    table[code] = table[ids].mean(0)
            rows = training_rows(
                tokenizer,
                setting,
                setting.dialogues(shared),
                {aspect: [code] for aspect, code in codes.items()},
            )
            return cls(fine_tune(lm, tokenizer, rows, setting, cls.name), codes)

    def write(self, requests: list[Request], how: DecodingArguments, strength: float, seed: int) -> list[str]:
        """See `baselines.registry.Baseline`; a code has no strength, so that it does not matter."""
        before = [
            [code for aspect, code in self.codes.items() if aspect in request.target.values()]
            for request in requests
        ]
        return self.model.write(requests, how, seed, before=before)
