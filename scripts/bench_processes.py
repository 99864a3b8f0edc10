"""Training, generation and scoring with 1, 2, 4, ... processes, each on a GPU of its own. ``python -m scripts.bench_processes``

Two kinds of work: as much for each process (``per process``), and as much for all together (``total``). Efficiency is the
rate over the number of processes times the rate of one; training has two variants, steps as usual and steps recorded as CUDA
graphs, and one process's rate is that of its faster one. Weights and texts are random, sizes are those of the presets
(`scripts.shapes`). One call measures all that the machine has; what `--minutes` leaves no time for is left out and said.

Training: whole optimizer steps of as many batches as the preset's, all of one shape, 60 tokens of context and 30 of reply,
the gradients' averaging included; ``communication`` is what that averaging takes alone. Generation: contexts to priors to latents by the ODE to greedy
replies of 64 tokens, one candidate, no choice. Scoring: `scoring.score.score_file` on a file, with an evaluator per attribute
and one of coherence of the encoder's size, text metrics and the joining of the columns included.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
import csv  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from transformers import BertForSequenceClassification  # noqa: E402

from common import processes  # noqa: E402
from common.devices import release_memory  # noqa: E402
from common.jsonl import write_jsonl  # noqa: E402
from common.provenance import device_name  # noqa: E402
from common.schema import load_schema  # noqa: E402
from dataset.nli import LABEL_NAMES  # noqa: E402
from dataset.tokenizers import train_encoder_tokenizer  # noqa: E402
from generation.decoding import generate  # noqa: E402
from model.cvae import MiracleModel  # noqa: E402
from model.energy import aspect_energy  # noqa: E402
from model.fused_layers import fuse_layers  # noqa: E402
from model.gaussian import Gaussian  # noqa: E402
from model.losses import LossInputs, LossWeights, weighted_sum  # noqa: E402
from model.prior import combine  # noqa: E402
from model.sampler import SamplerSettings, sample_ode  # noqa: E402
from scoring.evaluators import Evaluator  # noqa: E402
from scoring.score import score_file  # noqa: E402
from scoring.scorer import Scorer  # noqa: E402
from scripts.bench_scoring import synthetic  # noqa: E402
from scripts.shapes import ATTRIBUTES, SETUPS, build, decoders, encoders  # noqa: E402
from training.recorded_step import GraphedStep  # noqa: E402
from training.shared_step import SharedStep  # noqa: E402

CONTEXT, REPLY, NEW_TOKENS = 60, 30, 64
PER_PROCESS, TOTAL = "per process", "total"
AS_USUAL, RECORDED = VARIANTS = ("as usual", "recorded")


@dataclass(frozen=True)
class ProcessFigure:
    """One measured rate.

    Attributes:
        kind: `PER_PROCESS` or `TOTAL`.
        work: units that all processes did together.
        seconds: of the slowest process.
        communication: seconds of them that averaging gradients takes, measured alone; None where there is none.
        start: seconds from the launch of the processes until all had met.
        accumulation: batches of a training step, whose gradients are averaged once.
    """

    what: str
    size: str
    variant: str
    kind: str
    processes: int
    work: int
    unit: str
    seconds: float
    communication: float | None
    start: float
    device: str
    accumulation: int = 1

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.work / self.seconds


@dataclass(frozen=True)
class Load:
    """How much is done.

    Attributes:
        rows: examples of a training batch for each process.
        steps: training steps that are timed.
        replies: to generate for each process.
        batch: replies decoded at once.
        scored: replies to score for each process.
        accumulation: batches of a training step, as the preset has it.
    """

    rows: int
    steps: int
    replies: int
    batch: int
    scored: int
    accumulation: int = 1


LOADS = {
    "tiny": Load(4, 3, 16, 8, 64),
    "chat": Load(64, 30, 2048, 512, 6000),
    "paper": Load(16, 10, 1024, 256, 6000, accumulation=8),
}


# --- one process's part ------------------------------------------------------------------------------------------------


def seconds_together(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the slowest process for a call that all make at once."""
    _finished(device)
    processes.wait_for_all()
    started = time.perf_counter()
    work()
    _finished(device)
    elapsed = time.perf_counter() - started
    return processes.greatest(int(elapsed * 1e9)) / 1e9


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def batch_of(size: str, rows: int, device: torch.device) -> dict[str, torch.Tensor | int]:
    """Random ids of fixed lengths, other ones in every process, as `dataset.batching.CvaeCollator` makes them."""
    source, setup = torch.Generator().manual_seed(processes.rank()), SETUPS[size]

    def ids(length: int, vocabulary: int) -> torch.Tensor:
        return torch.randint(vocabulary, (rows, length), generator=source).to(device)

    reads, writes = encoders()[setup.encoder].vocab_size, decoders()[setup.decoder].vocab_size
    context, posterior, decoder = (
        ids(CONTEXT, reads),
        ids(CONTEXT + REPLY, reads),
        ids(CONTEXT + REPLY, writes),
    )
    labels = decoder.clone()
    labels[:, :CONTEXT] = -100
    batch: dict[str, torch.Tensor | int] = {
        f"{name}_{part}": value
        for name, tokens in (("context", context), ("posterior", posterior), ("decoder", decoder))
        for part, value in (("ids", tokens), ("mask", torch.ones_like(tokens)))
    }
    row_numbers = torch.arange(rows, device=device)
    batch |= {"posterior_types": torch.zeros_like(posterior), "labels": labels, "response_length": REPLY}
    targets = torch.full((rows, len(ATTRIBUTES)), -1, device=device)
    targets[row_numbers, row_numbers % len(ATTRIBUTES)] = row_numbers % 2
    return batch | {"targets": targets}


class TrainingSteps:
    """Optimizer steps of one model.

    Args:
        recorded: by CUDA graphs, where there is a GPU.
    """

    def __init__(self, size: str, device: torch.device, recorded: bool):
        self.model, self.device = build(SETUPS[size], device).train(), device
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.weights = LossWeights(0.05, kl=0.05, classification=1.0, distance=0.1)
        self.step: SharedStep | GraphedStep | None = None
        self.wrapped: torch.nn.Module = self.model
        if processes.several() and recorded:
            parts = self.model.decoder_first(self.parameters)
            self.step = SharedStep(self._inputs, self._terms, *parts, device)
        elif recorded:
            self.step = GraphedStep(self._loss, self.parameters, device)
        elif processes.several():
            cards = [device] if device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(self.model, device_ids=cards, find_unused_parameters=True)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _inputs(self, batch) -> LossInputs:
        with self._autocast():
            return self.model.loss_inputs(**batch, weights=self.weights)

    def _terms(self, given: LossInputs, kl: float) -> tuple[torch.Tensor, torch.Tensor]:
        with self._autocast():
            loss = weighted_sum(given, self.weights.replace(kl=kl))["loss"]
        return loss, loss

    def _loss(self, batch, kl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self._autocast():
            loss = self.model(**batch, weights=self.weights.replace(kl=kl))["loss"]
        return loss, loss

    def __call__(self, batch: dict, accumulation: int) -> None:
        """One step on so many batches."""
        for last in [False] * (accumulation - 1) + [True]:
            self._add_gradients(batch, 1 / accumulation, last)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _add_gradients(self, batch: dict, scale: float, last: bool) -> None:
        if isinstance(self.step, SharedStep):
            self.step(batch, 0.05, scale, last)
        elif self.step is not None:
            self.step(batch, 0.05, scale)
        else:
            averages = last or not isinstance(self.wrapped, DistributedDataParallel)
            with nullcontext() if averages else self.wrapped.no_sync(), self._autocast():
                loss = self.wrapped(**batch, weights=self.weights)["loss"]
                (loss * scale).backward()

    def averaging(self) -> float | None:
        """Seconds that averaging all gradients in one piece takes alone; None for one process."""
        if not processes.several():
            return None
        flat = torch.zeros(sum(p.numel() for p in self.parameters), device=self.device)
        torch.distributed.all_reduce(flat)
        return seconds_together(lambda: torch.distributed.all_reduce(flat), self.device)


def train(size: str, device: torch.device, variants: Sequence[str] = VARIANTS) -> Iterator[tuple]:
    """(variant, kind, work, seconds, communication) of training."""
    load, count = LOADS[size], processes.count()
    for variant in variants:
        training = TrainingSteps(size, device, variant == RECORDED)
        for kind, rows, accumulation in _shares(load, count):
            batch = batch_of(size, rows, device)
            for _ in range(4):
                training(batch, accumulation)
            seconds = seconds_together(partial(_steps, training, batch, accumulation, load.steps), device)
            alone = training.averaging()
            spent = None if alone is None else alone * load.steps
            yield variant, kind, rows * accumulation * count * load.steps, seconds, spent
        training = None
        release_memory()


def _shares(load: Load, count: int) -> Iterator[tuple[str, int, int]]:
    """(kind, rows of a batch, batches of a step) of each process: the same step's work is shared out batch by batch if it can."""
    yield PER_PROCESS, load.rows, load.accumulation
    if load.accumulation % count == 0:
        yield TOTAL, load.rows, load.accumulation // count
    else:
        yield TOTAL, -(-load.rows // count), load.accumulation


def _steps(training: TrainingSteps, batch: dict, accumulation: int, number: int) -> None:
    for _ in range(number):
        training(batch, accumulation)


def write(size: str, device: torch.device) -> Iterator[tuple]:
    """The same of generation."""
    load, count = LOADS[size], processes.count()
    model = build(SETUPS[size], device).eval()
    model.merge()
    if device.type == "cuda":
        model.decoder.lm.to(torch.bfloat16)
    fuse_layers(model.decoder.lm)
    for kind, replies in ((PER_PROCESS, load.replies), (TOTAL, -(-load.replies // count))):
        replies = max(1, replies)
        _write(model, size, device, min(load.batch, replies), load.batch)  # records its steps
        seconds = seconds_together(lambda: _write(model, size, device, replies, load.batch), device)  # noqa: B023
        yield "as usual", kind, replies * count, seconds, None


def _write(model: MiracleModel, size: str, device: torch.device, replies: int, batch: int) -> None:
    for begin in range(0, replies, batch):
        rows = batch_of(size, min(batch, replies - begin), device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            priors = model.encode_prior(rows["context_ids"], rows["context_mask"])
        number = torch.arange(len(rows["targets"]), device=device)
        targets = torch.stack([(number >> k) & 1 for k in range(len(ATTRIBUTES))], dim=1)
        prior = combine(Gaussian(priors.mean.float(), priors.logvar.float()), targets >= 0, "average")
        weights, stacked = torch.full((len(ATTRIBUTES),), 10.0, device=device), model.heads.stacked()
        start = prior.sample(torch.randn_like(prior.mean))
        z = sample_ode(
            SamplerSettings(),
            start,
            prior,
            lambda r: aspect_energy(model.heads, targets[r], weights, stacked),  # noqa: B023
        ).z
        ids, mask = rows["decoder_ids"][:, :CONTEXT], rows["decoder_mask"][:, :CONTEXT]
        generate(model.decoder, z, ids, mask, eos_token_id=-1, pad_token_id=-2, max_new_tokens=NEW_TOKENS)


def score(size: str, device: torch.device) -> Iterator[tuple]:
    """The same of scoring."""
    load, count, schema = LOADS[size], processes.count(), load_schema()
    scorer = random_scorer(size, schema, device)
    for kind, replies in ((PER_PROCESS, load.scored * count), (TOTAL, load.scored)):
        folder = Path(processes.by_first(lambda: tempfile.mkdtemp(prefix="miracle-score-")))
        source = folder / "replies.jsonl"
        processes.by_first(lambda: write_jsonl(source, synthetic(replies, schema)))  # noqa: B023
        seconds = seconds_together(
            lambda: score_file(source, schema, scorer, None, folder / "scored.jsonl"),  # noqa: B023
            device,
        )
        processes.by_first(lambda: [path.unlink() for path in folder.iterdir()] and None)  # noqa: B023
        processes.by_first(folder.rmdir)
        yield "as usual", kind, replies, seconds, None


def random_scorer(size: str, schema, device: torch.device) -> Scorer:
    """Evaluators of the encoder's size with random weights."""
    texts = [row["response"] for row in synthetic(200, schema)]
    tokenizer = train_encoder_tokenizer(texts, 500)
    scorer = Scorer.__new__(Scorer)
    scorer.schema, scorer.records, scorer.evaluators, scorer.audit, scorer.hash = (
        schema,
        {},
        {},
        None,
        "random",
    )
    for name, labels in {**schema.aspects, "nli": LABEL_NAMES}.items():
        torch.manual_seed(len(scorer.evaluators))
        config = encoders()[SETUPS[size].encoder]
        config.update({"num_labels": len(labels), "pad_token_id": tokenizer.pad_token_id})
        model = BertForSequenceClassification(config).to(device).eval()
        scorer.evaluators[name] = Evaluator(name, model, tokenizer, 128, {})
    return scorer


WORKS = {
    "train": (train, "examples/s"),
    "generate": (write, "replies/s"),
    "score": (score, "replies/s"),
}


def measure(out: Path, sizes: list[str], works: list[str], variants: Sequence[str] = VARIANTS) -> None:
    """One process's part of all measurements; the first writes each figure the moment it is known."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processes.wait_for_all()
    start = time.time() - float(os.environ.get("MIRACLE_BENCH_STARTED", time.time()))
    for size in sizes:
        for what in works:
            release_memory()
            work, unit = WORKS[what]
            figures = train(size, device, variants) if work is train else work(size, device)
            for variant, kind, done, seconds, communication in figures:
                figure = ProcessFigure(
                    what, size, variant, kind, processes.count(), done, unit, seconds, communication, start, device_name(),
                    accumulation=LOADS[size].accumulation if work is train else 1,
                )  # fmt: skip
                if processes.is_first():
                    with open(out, "a", encoding="utf-8") as lines:
                        lines.write(json.dumps(dataclasses.asdict(figure)) + "\n")


# --- the whole ---------------------------------------------------------------------------------------------------------


def efficiency(figure: ProcessFigure, figures: list[ProcessFigure]) -> float | None:
    """A rate over the number of processes times the best rate of one process at the same work; None without that."""
    same = [
        other.rate
        for other in figures
        if other.processes == 1
        and (other.what, other.size, other.kind, other.accumulation)
        == (figure.what, figure.size, figure.kind, figure.accumulation)
    ]
    return figure.rate / (figure.processes * max(same)) if same else None


def table(figures: list[ProcessFigure]) -> str:
    """A line per figure."""
    lines = [
        "what      size   work         variant   processes        rate unit        efficiency  seconds  communication  start"
    ]
    for f in figures:
        share = efficiency(f, figures)
        lines.append(
            f"{f.what:<9} {f.size:<6} {f.kind:<12} {f.variant:<9} {f.processes:>9} {f.rate:>11,.1f} {f.unit:<12}"
            f"{'-' if share is None else f'{share:.0%}':>10} {f.seconds:>8.3f} {'-' if f.communication is None else f'{f.communication:.3f} s':>14} {f.start:>5.0f} s"
        )
    return "\n".join(lines)


def write_csv(path: Path, figures: list[ProcessFigure]) -> None:
    """All figures with their rates and efficiencies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as out:
        names = [field.name for field in dataclasses.fields(ProcessFigure)]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*names, "rate", "efficiency"])
        for figure in figures:
            share = efficiency(figure, figures)
            writer.writerow(
                [*(getattr(figure, name) for name in names), figure.rate, "" if share is None else share]
            )


def run(count: int, options: argparse.Namespace, seconds: float) -> tuple[list[ProcessFigure], str | None]:
    """The figures of so many processes, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.jsonl"
        words = [
            "-m",
            "scripts.bench_processes",
            "--part",
            str(out),
            "--sizes",
            *options.sizes,
            "--what",
            *options.what,
            "--variants",
            *options.variants,
        ]
        if options.accumulation:
            words += ["--accumulation", str(options.accumulation)]
        command = [sys.executable, "-m", "common.launch", str(count), *words]
        trouble = None
        try:
            environment = os.environ | {"MIRACLE_BENCH_STARTED": str(time.time())}
            done = subprocess.run(command, env=environment, timeout=max(1.0, seconds))
            if done.returncode:
                trouble = f"{count} processes: ended with status {done.returncode}"
        except subprocess.TimeoutExpired:
            trouble = f"{count} processes: no time left"
        lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
        return [ProcessFigure(**json.loads(line)) for line in lines], trouble


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--processes", type=int, nargs="+", help="how many; default: 1, 2, 4, 8 as far as there are GPUs"
    )
    options.add_argument("--sizes", nargs="+", choices=SETUPS, help="default: chat paper; tiny without a GPU")
    options.add_argument("--what", nargs="+", choices=WORKS, default=list(WORKS), help="default: all")
    options.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of training (default: both)"
    )
    options.add_argument(
        "--accumulation",
        type=int,
        help="batches of a training step (default: the preset's: paper 8, others 1)",
    )
    options.add_argument("--minutes", type=float, default=9.0, help="for all of it (default: 9)")
    options.add_argument(
        "--csv", type=Path, default=Path("outs/processes.csv"), help="(default: outs/processes.csv)"
    )
    options.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table and write a CSV file; returns the exit status: 1 where something is missing."""
    options = parser().parse_args(argv)
    cards = torch.cuda.device_count()
    options.sizes = options.sizes or (["chat", "paper"] if cards else ["tiny"])
    if options.accumulation:
        for size in options.sizes:
            LOADS[size] = dataclasses.replace(LOADS[size], accumulation=options.accumulation)
    if options.part:
        measure(options.part, options.sizes, options.what, options.variants)
        return 0
    counts = options.processes or [n for n in (1, 2, 4, 8) if n <= max(1, cards)]
    ends, figures, missing = time.monotonic() + 60 * options.minutes, [], []
    for count in counts:
        new_figures, trouble = run(count, options, ends - time.monotonic())
        figures += new_figures
        missing += [trouble] if trouble else []
        write_csv(options.csv, figures)
    print(table(figures))
    print(f"-> {options.csv}")
    for line in missing:
        print(line)
    return 1 if missing else 0


if __name__ == "__main__":
    run_main(main)
