"""One training loop for both bases: AdamW, a warm-up, a cosine, bf16 where the GPU has it, and a line of the record at the end."""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.entry import Parser

Losses = dict[str, torch.Tensor]


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """The factor of the peak rate: up in a line, down to a tenth by half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def optimise(
    name: str, model: nn.Module, batches: Iterator, losses_of: Callable[[object], Losses], steps: int, rate: float,
    device: torch.device, evaluate: Callable[[], dict[str, float]], best: str, looks: int = 10,
) -> dict:  # fmt: skip
    """Train on `steps` batches and keep the weights of the best look; returns seconds, and what `evaluate` said at every look.

    Args:
        losses_of: a batch -> its losses by name; their sum is what is minimised.
        rate: the peak learning rate.
        best: which of `evaluate`'s numbers says how good a look is; lower is better. A small corpus that is read many times is
            learnt by heart in the end.
        looks: how often `evaluate` is asked, the last step included.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, min(500, steps // 10 + 1)))  # fmt: skip
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    started, seen, history = time.monotonic(), None, []
    kept: tuple[float, int, dict[str, torch.Tensor]] = (math.inf, 0, {})
    model.train()
    for step in tqdm(range(1, steps + 1), desc=name, mininterval=5):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = losses_of(next(batches))
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            now = torch.stack([loss.float() for loss in losses.values()])
            seen = now if seen is None else 0.98 * seen + 0.02 * now
        if step % max(1, steps // looks) == 0 or step == steps:
            values = dict(zip(losses, (round(value, 4) for value in seen.tolist())))
            if not all(math.isfinite(value) for value in values.values()):
                raise FloatingPointError(f"{name}: the loss is not finite at step {step}: {values}")
            model.eval()
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                metrics = {key: round(value, 4) for key, value in evaluate().items()}
            model.train()
            history.append(
                {"step": step, "seconds": round(time.monotonic() - started), "training": values} | metrics
            )
            print(f"{name}: {json.dumps(history[-1])}", flush=True)
            if not kept[2] or metrics[best] < kept[0]:
                kept = metrics[best], step, {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    model.load_state_dict(kept[2])
    return {"steps": steps, "kept": kept[1], "seconds": round(time.monotonic() - started), "history": history}


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def device_name(device: torch.device) -> str:
    """What computed."""
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type
    )


def common_options(
    description: str, vocabulary: int, layers: int, batch: int, learning_rate: float
) -> Parser:
    """The options that both trainings have, with one's own defaults."""
    options = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--text", type=Path, required=True, help="folder of pretraining.cleaning")
    options.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    options.add_argument("--further", type=Path, help="a further text, see pretraining.texts")
    options.add_argument("--corpus-times", type=int, default=4, help="times that the corpus is read in an epoch (%(default)s)")  # fmt: skip
    options.add_argument("--vocabulary", type=int, default=vocabulary, help="tokens (%(default)s)")
    options.add_argument("--width", type=int, default=256, help="of the states (%(default)s)")
    options.add_argument("--layers", type=int, default=layers, help="(%(default)s)")
    options.add_argument("--batch", type=int, default=batch, help="rows in a step (%(default)s)")
    options.add_argument("--learning-rate", type=float, default=learning_rate, help="at its peak (%(default)s)")  # fmt: skip
    options.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options.add_argument("--device", help="cuda, mps or cpu; default: CUDA, MPS or CPU, in that order")
    return options


def save(
    kind: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace, read: dict, result: dict
) -> None:  # fmt: skip
    """The checkpoint in fp16, its ``training.json``, and a line of ``tried.jsonl`` beside its folder.

    Args:
        read: how much it read.
        result: of `optimise`.
    """
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    entry = {"kind": kind, "parameters": parameters(model), **read, "device": device_name(model.device), "settings": settings, **result}  # fmt: skip
    model.half().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    with open(options.out.parent / "tried.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
