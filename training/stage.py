"""What every training stage shares: precision, progress, checkpoints to resume from, and a folder that appears when done."""

import dataclasses
import importlib.util
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from common.errors import InputError
from common.jsonl import read_json, write_json
from common.locks import exclusive
from common.processes import by_first, rank, several
from common.provenance import enough_memory
from model.bases import not_finite, weights_hash
from training.inputs import Inputs
from training.interruption import stopping_at_signals
from training.log import ReadableLog

APART = 1_000_003  # between the seeds of two processes
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Stage:
    """One trained thing of a run.

    Attributes:
        name: as shown to the user.
        folder: where it will lie when finished.
        inputs: options, content of what is read, version of the code; a finished folder of the same ones is not trained again.
        record: what to write into ``stage.json`` beside the metrics.
    """

    name: str
    folder: Path
    inputs: Inputs
    record: dict = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Checkpoints of training under way."""
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def logs(self) -> Path:
        """What ``--report-to tensorboard`` writes; ``tensorboard --logdir outs/<run>`` finds it."""
        return self.folder.parent / "logs" / self.folder.name

    def exclusive(self) -> AbstractContextManager[None]:
        """No other process trains this stage meanwhile; raises `InputError` where one does."""
        return exclusive(self.folder, self.name)

    @property
    def aside(self) -> Path:
        """Where the folder of an earlier training lies while a new one takes its place."""
        return self.folder.with_name(self.folder.name + ".replaced")

    def finished(self) -> dict | None:
        """The record of a finished stage of the same inputs, whose weights are there and are those recorded; else None."""
        if self.aside.is_dir() and not self.folder.exists():  # ended between two moves
            self.aside.rename(self.folder)
        shutil.rmtree(self.aside, ignore_errors=True)
        record = self._record(self.folder / "stage.json")
        if record and (why := self.inputs.reasons(record.get("inputs"))):
            print(
                f"{self.name}: {self.folder} is trained again and replaced (another --run keeps both), because {why}",
                flush=True,
            )
            return None
        recorded = record.get("metrics", {}).get("hash") if record else None
        if recorded and weights_hash(self.folder) != recorded:
            print(
                f"{self.name}: the weights in {self.folder} are not those that its stage.json names; it is trained again",
                flush=True,
            )
            return None
        return record

    def _record(self, path: Path) -> dict | None:
        """A record of this stage; one that is damaged counts as none, and that is said."""
        try:
            return read_json(path)
        except InputError as error:
            print(f"{self.name}: {error}; it is done again", flush=True)
            return None

    def last_checkpoint(self) -> str | None:
        """The checkpoint to go on from; checkpoints of other settings or data are cleared away."""
        marker = self._record(self.work / "started.json")
        why = self.inputs.reasons(marker.get("inputs")) if marker else "none"
        if why:
            if marker:
                print(
                    f"{self.name}: the checkpoints of an unfinished training are dropped, because {why}",
                    flush=True,
                )
            shutil.rmtree(self.work, ignore_errors=True)
            write_json(self.work / "started.json", {"inputs": self.inputs.record()})
            return None
        for checkpoint in sorted(self.work.glob("checkpoint-*"), key=_steps, reverse=True):
            if reason := damage(checkpoint):
                print(f"{self.name}: {checkpoint.name} is not whole ({reason}) and is left out", flush=True)
                shutil.rmtree(checkpoint, ignore_errors=True)
            else:
                return str(checkpoint)
        return None

    def finish(
        self,
        save: Callable[[Path], None],
        metrics: dict,
        seconds: float,
        load: Callable[[Path], object] | None = None,
    ) -> dict:
        """Save into a folder of its own and put it in place in one move; the checkpoints go.

        Args:
            load: reads what was saved, and raises `InputError` where something is missing of it.

        Raises:
            InputError: for weights that are not finite, or not all there; nothing is put in place.
        """
        final = self.work / "final"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir(parents=True)
        save(final)
        if name := not_finite(final):
            raise InputError(
                f"{self.name}: the trained weights are not finite ({name} holds NaN or infinity), and nothing was saved; a lower learning rate or --precision fp32 may help"
            )
        if load is not None:
            load(final)
        record = {
            "inputs": self.inputs.record(),
            "seconds": round(seconds, 1),
            "metrics": metrics,
            **self.record,
        }
        write_json(final / "stage.json", record)
        shutil.rmtree(self.aside, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(self.aside)
        final.rename(self.folder)
        shutil.rmtree(self.aside, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)
        return record


def _steps(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be gone on from: its saving was cut off; None for one that is whole.

    The trainer's state is written last. Weights are looked at by their headers and lengths, PyTorch's files by their directories.
    """
    try:
        if read_json(checkpoint / "trainer_state.json") is None:
            return "no trainer_state.json"
    except InputError as error:
        return str(error)
    weights, states = (
        list(checkpoint.glob("*.safetensors")),
        [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")],
    )
    for path in weights:
        try:
            with safe_open(path, "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name}: {' '.join(str(error).split())[:120]}"
    for path in states:
        if not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
    return None if weights else "no weights"


def resolved_arguments(
    training: TrainingArguments, stage: Stage, precision: str, **changes
) -> TrainingArguments:
    """A script's `TrainingArguments` with the stage's folder and the precision of this machine filled in.

    ``auto`` is bf16 on a GPU that has it and fp32 elsewhere.
    """
    for name in {"tensorboard", "wandb"} & set(training.report_to):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"--report-to {name} needs its package, which is not installed: pip install {name}, in the environment that runs this"
            )
    if "tensorboard" in training.report_to:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(
            stage.logs
        )  # read by transformers' callback when the trainer is made
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    for name in ("fsdp", "deepspeed"):
        if getattr(training, name, None):
            raise InputError(
                f"--{name}: a model cannot be shared out among processes; every process holds all of it, and --lora_rank 16, --load_4bit true or --optim adamw_bnb_8bit with --bf16_decoder true make it small"
            )
    on_cpu = training.device.type == "cpu"
    if precision == "fp16" and on_cpu:
        raise InputError("--precision fp16 needs a GPU; a CPU has fp32 and bf16")
    if on_cpu:
        changes["use_cpu"] = True  # without it transformers refuses bf16 there
    return dataclasses.replace(
        training,
        output_dir=str(stage.work),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        save_total_limit=1,
        logging_nan_inf_filter=False,  # it would read every loss back from the device; `training.watch` looks at them
        remove_unused_columns=False,
        **changes,
    )


class ProgressBars(ProgressCallback):
    """The progress bars with their ETA; the log is `training.log.ReadableLog`'s."""

    def on_log(self, *args, **kwargs):
        """Nothing."""


@contextmanager
def known_metric() -> Iterator[None]:
    """`transformers` looks for the metric that chooses the best checkpoint only when there is one to choose."""
    try:
        yield
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        raise InputError(str(error.args[0])) from error


def run_trainer(trainer, stage: Stage, extra_callbacks: list[TrainerCallback] = ()) -> float:
    """Train, from the last checkpoint where there is one; returns the seconds it took."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ProgressBars())
    for callback in (ReadableLog(stage.name), *extra_callbacks):
        trainer.add_callback(callback)
    started = time.monotonic()
    checkpoint = by_first(stage.last_checkpoint)
    if several():
        set_seed((trainer.args.seed + APART * rank()) % 2**32)  # dropout and noise of their own
    if checkpoint:
        print(f"{stage.name}: going on from {Path(checkpoint).name}", flush=True)
    size = trainer.args.per_device_train_batch_size
    advice = "halve it and double --gradient_accumulation_steps (the same training), or add --gradient_checkpointing"
    with (
        enough_memory(f"{stage.name}: out of memory at --per_device_train_batch_size {size}; {advice}"),
        stopping_at_signals(trainer, stage.name),
        known_metric(),
    ):
        trainer.train(resume_from_checkpoint=checkpoint)
    return time.monotonic() - started
