"""Numbers that are not finite stop a training at once, and neither a checkpoint nor a record is made of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from common.errors import InputError
from common.jsonl import write_jsonl
from common.processes import is_first, rank

ROWS = "not_finite.jsonl"  # beside the checkpoints; of the second of several processes not_finite.1.jsonl
ADVICE = "a lower --learning_rate or --precision fp32 may help"


@dataclass
class _Seen:
    """A step whose loss has been asked for: on a GPU the answer comes while the next step is computed."""

    step: int
    batch: Mapping
    finite: torch.Tensor  # on the CPU, valid once `ready` has happened
    ready: "torch.cuda.Event | None"


class FiniteWatch(TrainerCallback):
    """Looks at the loss of every step, and at the weights before they are saved.

    On a CPU a step is judged when it is computed. On a GPU its loss is copied while the work goes on and judged when the
    next step has been launched, so that the device never waits for the host; before anything is logged, measured or saved,
    the last step is judged too.

    Args:
        name: of the stage, for messages.
        folder: the checkpoints'; the rows of the batch go there.
        tokenizers: key of a batch -> tokenizer, for the texts of the rows.
    """

    def __init__(self, name: str, folder: Path, tokenizers: dict[str, PreTrainedTokenizerBase]):
        self.name, self.folder, self.tokenizers = name, Path(folder), tokenizers
        self.last: _Seen | None = None

    def note(self, loss: torch.Tensor, batch: Mapping, step: int) -> None:
        """Take a step's loss; raises `InputError` where it, or on a GPU the one before, is not finite."""
        before, finite = self.last, torch.isfinite(loss.detach()).all()
        if finite.is_cuda:
            finite = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            self.last = _Seen(step, batch, finite, torch.cuda.Event())
            self.last.ready.record()
            self._judge(before)
        else:
            self.last = _Seen(step, batch, finite, None)
            self.judge()

    def judge(self) -> None:
        """Raises `InputError` where the loss of the last step is not finite; waits for it on a GPU."""
        self._judge(self.last)
        self.last = None

    def _judge(self, seen: _Seen | None) -> None:
        if seen is None:
            return
        if seen.ready is not None:
            seen.ready.synchronize()
        if not bool(seen.finite):
            place = self.folder / (ROWS if is_first() else ROWS.replace(".", f".{rank()}.", 1))
            write_jsonl(place, self.rows(seen.batch))
            raise InputError(
                f"{self.name}: the loss is not finite at step {seen.step}; its batch is in {place}, {self._kept()}; {ADVICE}"
            )

    def _kept(self) -> str:
        kept = [path for path in self.folder.glob("checkpoint-*") if path.name[11:].isdigit()]
        last = max(kept, key=lambda path: int(path.name[11:]), default=None)
        return f"{last.name} before it is kept" if last else "no checkpoint was made before it"

    def rows(self, batch: Mapping) -> list[dict]:
        """The rows of a batch: numbers as lists, token ids as texts besides."""
        tensors = {key: value for key, value in batch.items() if torch.is_tensor(value) and value.dim()}
        size = min((len(value) for value in tensors.values()), default=0)
        rows = [{key: value[i].tolist() for key, value in tensors.items()} for i in range(size)]
        for key in tensors.keys() & self.tokenizers.keys():
            for row in rows:
                row[f"{key}_text"] = self.tokenizers[key].decode(row[key], skip_special_tokens=True)
        return rows

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Judge before anything is made of the step."""
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:  # fmt: skip
            self.judge()
        if control.should_save:
            self._check_weights(model, state.global_step)

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        """As at the end of a step."""
        self.judge()
        if control.should_save:
            self._check_weights(model, state.global_step)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """A dev loss that is not finite would decide which checkpoint is the best."""
        loss = (metrics or {}).get("eval_loss")
        if loss is not None and not math.isfinite(loss):
            raise InputError(
                f"{self.name}: the dev loss is not finite after step {state.global_step}, {self._kept()}; {ADVICE}"
            )

    def _check_weights(self, model: torch.nn.Module, step: int) -> None:
        """The loss of a step is that of the weights before it."""
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not trained or bool(
            torch.stack([torch.isfinite(value).all() for value in trained.values()]).all()
        ):
            return
        name = next(name for name, value in trained.items() if not torch.isfinite(value).all())
        raise InputError(
            f"{self.name}: the weights are not finite after step {step} ({name}), {self._kept()}; {ADVICE}"
        )
