"""LoRA per aspect: an adapter for each aspect, trained on its dialogues alone, merged with weights for a target.

Adapters stand on the frozen `uncontrolled`, so that they need not learn the dialogues as well, which their sum would add up.
Those of a target are combined by `peft`'s ``add_weighted_adapter``, every one with the strength as its weight (``cat``: the sum of
the changes to the weights, exactly; ``linear``: the sum of their factors; task arithmetic, Ilharco et al., ICLR 2023; compositions
of adapters, Zhang et al., NeurIPS 2023), and merged into a copy of the language model, so that writing costs what it costs
`uncontrolled`.
"""

import copy
import warnings
from dataclasses import replace

from transformers import PreTrainedModel

from baselines.language_model import (
    DialogueCollator,
    LanguageModel,
    PlainDecoder,
    reply_loss,
    training_rows,
    uncontrolled,
)
from baselines.prefix_tuning import import_peft
from baselines.training import TrainingSetting, optimise
from common.errors import InputError
from generation.options import DecodingArguments
from generation.requests import Request

COMBINATIONS = ("cat", "linear")
MERGED = "merged"  # no aspect's: their names begin otherwise


def adapter_name(aspect: str) -> str:
    """An aspect's adapter; the prefix keeps it apart from the names that `torch`'s containers have themselves."""
    return f"aspect_{aspect}"


class LoraPerAspect:
    """The uncontrolled language model with the adapters of a target's aspects merged into it.

    Args:
        model: without adapters.
        adapted: `peft`'s model of a copy of it with all aspects' adapters.
    """

    name = "lora_per_aspect"
    has_strength = True

    def __init__(self, model: LanguageModel, adapted):
        self.model, self.adapted = model, adapted

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "LoraPerAspect":
        """See `baselines.registry.Baseline`; each aspect's dialogues are seen for the setting's epochs.

        Raises:
            InputError: without `peft`, and for an aspect without dialogues.
        """
        peft = import_peft()  # before anything is trained
        model = uncontrolled(setting, shared)
        rows = training_rows(model.tokenizer, setting, setting.dialogues(shared))
        rates = replace(setting, learning_rate=setting.adapter_learning_rate)
        collate, adapted = DialogueCollator(model.tokenizer.pad_token_id), None
        for number, aspect in enumerate(setting.aspects):
            aspect_rows = [row for row in rows if row["aspect"] == number]
            if not aspect_rows:
                raise InputError(f"LoRA per aspect: no training dialogue shows {aspect!r}")
            with setting.seeded(f"{cls.name} {aspect}"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="fan_in_fan_out")  # of GPT-2's layers; peft sees it
                settings = peft.LoraConfig(
                    r=setting.lora_rank,
                    lora_alpha=2 * setting.lora_rank,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                )
                if adapted is None:
                    adapted = peft.get_peft_model(
                        copy.deepcopy(model.lm), settings, adapter_name=adapter_name(aspect)
                    )
                else:
                    adapted.add_adapter(adapter_name(aspect), settings)
                adapted.set_adapter(adapter_name(aspect))
                decoder = PlainDecoder(adapted.get_base_model())
                optimise(
                    f"lora {aspect}",
                    adapted,
                    aspect_rows,
                    collate,
                    lambda batch: reply_loss(decoder, batch),  # noqa: B023
                    rates,
                    setting.epochs,
                )
        adapted.requires_grad_(False)
        return cls(model, adapted)

    def write(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        combination: str = "cat",
    ) -> list[str]:
        """See `baselines.registry.Baseline`; strength is every adapter's weight, 1 as it was trained.

        Args:
            combination: of several adapters, ``cat`` or ``linear``.
        """
        if combination not in COMBINATIONS:
            raise InputError(
                f"LoRA per aspect: combination must be one of {COMBINATIONS}, found {combination!r}"
            )
        if not 0 <= strength < float("inf"):
            raise InputError(f"LoRA per aspect: strength must be 0 or more, found {strength}")
        replies = [""] * len(requests)
        targets = dict.fromkeys(tuple(request.target.items()) for request in requests)
        for target in targets:
            indices = [n for n, request in enumerate(requests) if tuple(request.target.items()) == target]
            lm = self.merged([aspect for _, aspect in target], strength, combination)
            texts = replace(self.model, lm=lm).write([requests[n] for n in indices], how, seed)
            for n, text in zip(indices, texts):
                replies[n] = text
        return replies

    def merged(self, aspects: list[str], strength: float, combination: str) -> PreTrainedModel:
        """A copy of the language model with these aspects' adapters in its weights; itself for none."""
        if not aspects or strength == 0:
            return self.model.lm
        names = [adapter_name(aspect) for aspect in aspects]
        self.adapted.base_model.add_weighted_adapter(
            names, [strength] * len(names), MERGED, combination_type=combination
        )
        try:
            return copy.deepcopy(self.adapted.base_model).merge_and_unload(adapter_names=[MERGED]).eval()
        finally:
            self.adapted.delete_adapter(MERGED)
