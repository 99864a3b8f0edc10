"""How the baselines are trained: one setting for all of them, one loop, and a store of what the methods of a run share."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup
from transformers.activations import ACT2FN, NewGELUActivation

from common.errors import InputError
from common.schema import Schema
from dataset.dialogues import Dialogue, read_attribute_dialogues
from dataset.encoding import DialogueTemplate
from dataset.sampling import LengthGrouped
from model.bases import load_decoder, load_decoder_tokenizer
from model.decoder import check_plain_cache, positions_limit
from model.noise import generator


def all_aspects(schema: Schema) -> list[str]:
    """The aspects of all attributes in schema order; their positions number them where attributes do not matter."""
    return [aspect for attribute in schema.attributes for aspect in attribute.aspects]


LATER = (
    "contrast_contexts",
    "lora_rank",
    "adapter_learning_rate",
)  # options that earlier experiments' trainings did not have


@dataclass(frozen=True)
class TrainingSetting:
    """What a baseline is trained from; the defaults are those of the CVAE's `small` preset.

    Attributes:
        schema: attributes, aspects and the files of the training dialogues.
        decoder: base decoder, by folder or hub name, or a (model, tokenizer) pair, which is copied and left as it is.
        template: the marks of the speakers in the decoder's text.
        device: where to train and to write; bf16 autocast on a GPU that has it.
        learning_rate, new_learning_rate: of the base's weights, and of the guides' heads, which come from no base.
        prefix_learning_rate: of prefixes, which are keys and values themselves and learn in larger steps than weights.
        context_weight: of language modelling on the context's tokens, for decoders from scratch.
        guide_epochs: of the guide classifiers, which soon overfit their training replies.
        prefix_length: key/value positions of prefix tuning, per aspect.
        decoder_length: longest input in tokens.
        contrast_contexts: training contexts to which persona vectors' contrasting replies are written, for every aspect.
        lora_rank, adapter_learning_rate: of the adapters of `lora_per_aspect`.
        limit: dialogues per attribute, evenly spread; None: all.
    """

    schema: Schema
    decoder: str | tuple[PreTrainedModel, PreTrainedTokenizerBase]
    template: DialogueTemplate
    device: torch.device
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 2e-4
    new_learning_rate: float = 1e-3
    prefix_learning_rate: float = 5e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    context_weight: float = 0.0
    guide_epochs: int = 3
    prefix_length: int = 10
    decoder_length: int = 192
    contrast_contexts: int = 40
    lora_rank: int = 16
    adapter_learning_rate: float = 3e-4
    limit: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in [
            "epochs",
            "guide_epochs",
            "batch_size",
            "prefix_length",
            "decoder_length",
            "contrast_contexts",
            "lora_rank",
        ]:
            if getattr(self, name) < 1:
                raise InputError(f"baselines: {name} must be at least 1, found {getattr(self, name)}")

    @property
    def aspects(self) -> list[str]:
        """`all_aspects` of the schema."""
        return all_aspects(self.schema)

    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base decoder in fp32, a copy of its own, on the device, and its tokenizer.

        Raises:
            model.bases.BaseNotFound: where it is not found.
            InputError: where it has fewer positions than `decoder_length`, or no plain key/value cache.
        """
        if isinstance(self.decoder, str):
            lm, tokenizer = load_decoder(self.decoder), load_decoder_tokenizer(self.decoder)
        else:
            lm, tokenizer = (copy.deepcopy(part) for part in self.decoder)
        positions = positions_limit(lm)
        if positions is not None and positions < self.decoder_length:
            raise InputError(
                f"baselines: decoder_length is {self.decoder_length}; the base decoder has {positions} positions"
            )
        try:
            check_plain_cache(lm.config)
        except ValueError as error:
            raise InputError(f"baselines: {error}") from error
        for module in lm.modules():
            if isinstance(getattr(module, "act", None), NewGELUActivation):
                module.act = ACT2FN["gelu_pytorch_tanh"]  # the same function in one kernel instead of eight
        return lm.float().to(self.device), tokenizer

    def dialogues(self, shared: dict) -> list[tuple[str, Dialogue]]:
        """All training dialogues, each with the one aspect that it is labelled for."""
        by_attribute = once(
            self, shared, "dialogues", lambda: read_attribute_dialogues(self.schema, "train", self.limit)
        )
        return [
            (dialogue.target[name], dialogue)
            for name, dialogues in by_attribute.items()
            for dialogue in dialogues
        ]

    @contextlib.contextmanager
    def seeded(self, purpose: str) -> Iterator[None]:
        """Randomness that depends on the seed and the purpose alone, whatever was trained before; torch's own state is left as it was."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(generator(self.seed, purpose, "", "training").initial_seed())
            yield


def once(setting: TrainingSetting, shared: dict, key: str, make: Callable):
    """What `shared` has under `key`, made where it is missing; raises `ValueError` for a store that another setting filled."""
    if shared.setdefault("setting", setting) != setting:
        raise ValueError("`shared` holds what was trained with another setting; start with an empty dict")
    if key not in shared:
        shared[key] = make()
    return shared[key]


def optimise(
    name: str, model: nn.Module, rows: list[dict], collate: Callable, loss_of: Callable[[dict], torch.Tensor], setting: TrainingSetting,
    epochs: int, new: frozenset[nn.Parameter] = frozenset(),
) -> None:  # fmt: skip
    """Train with AdamW, a linear schedule and batches of similar length; to be called under `TrainingSetting.seeded`.

    Args:
        model: the parameters that require gradients are trained; it is left in eval mode.
        rows: with ``input_ids``.
        collate: rows -> a batch of tensors.
        loss_of: a batch on the device -> its loss, a mean.
        new: parameters that come from no base.

    Raises:
        FloatingPointError: where the loss of an epoch is not finite.
    """
    started, steps = time.monotonic(), epochs * -(-len(rows) // setting.batch_size)
    lengths = [len(row["input_ids"]) for row in rows]
    sampler = LengthGrouped(setting.batch_size, lengths, torch.initial_seed())
    on_gpu = setting.device.type == "cuda"
    loader = DataLoader(rows, setting.batch_size, sampler=sampler, collate_fn=collate, pin_memory=on_gpu)
    optimizer = torch.optim.AdamW(_groups(model, setting, new), fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, min(setting.warmup_steps, steps // 10), steps)
    half = on_gpu and torch.cuda.is_bf16_supported()
    model.train()
    with tqdm(total=steps, desc=name, unit="step", leave=False, disable=None) as bar:
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            total = torch.zeros((), device=setting.device)
            for batch in loader:
                batch = {
                    key: value.to(setting.device, non_blocking=True) if torch.is_tensor(value) else value
                    for key, value in batch.items()
                }
                with torch.autocast(setting.device.type, torch.bfloat16, enabled=half):
                    loss = loss_of(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                total += loss.detach()
                bar.update()
            mean = float(total) / len(loader)
            if not mean < float("inf"):
                raise FloatingPointError(f"{name}: the loss is not finite in epoch {epoch + 1}")
    model.eval()
    print(
        f"{name}: {len(rows)} rows, {steps} steps, last epoch's loss {mean:.3f}, {time.monotonic() - started:.0f} s",
        flush=True,
    )


def _groups(model: nn.Module, setting: TrainingSetting, new: frozenset[nn.Parameter]) -> list[dict]:
    """Parameters by learning rate; no weight decay on biases and norms."""
    groups = []
    for is_new, rate in ((False, setting.learning_rate), (True, setting.new_learning_rate)):
        for decayed, decay in ((True, setting.weight_decay), (False, 0.0)):
            parameters = [
                p
                for p in model.parameters()
                if p.requires_grad and (p in new) == is_new and (p.ndim > 1) == decayed
            ]
            groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]
