"""Speed and memory beside their floors, with random weights and fixed work. ``python -m scripts.bench train --size paper``

train: optimizer steps; encode: contexts to priors; ode: latents at weight 10 of heads that were fitted to two
Gaussians per attribute; generate: tokens of greedy replies; pipeline: contexts to replies in all combinations, the best of
`--candidates` for each. With `--processes` so many do the same at once, on a GPU each, and rates are those of all together,
at the pace of the slowest (`scripts.bench_processes` compares numbers of processes). Every figure is the median of several repeats after a warm-up. The floor of a figure is its arithmetic over the rate of matrix
products, for train plus and for generate against (the larger counts) its bytes over the bandwidth of copies; both rates
are measured on this machine in the same run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F
from transformers import BertConfig, GPT2Config

from common import processes
from common.entry import Parser, run_main
from common.launch import launch
from common.provenance import device_name, package_versions
from dataset.encoding import IGNORED
from generation.choosing import candidate_scores
from generation.decoding import generate
from model.config import MiracleConfig
from model.cvae import MiracleModel
from model.energy import aspect_energy
from model.fused_layers import fuse_layers
from model.gaussian import Gaussian
from model.heads import LatentHeads
from model.losses import LossInputs, LossWeights, weighted_sum
from model.prior import combine
from model.sampler import SamplerSettings, sample_ode
from training.recorded_step import GraphedStep
from training.shared_step import SharedStep

ATTRIBUTES = {
    "languagestyle": ["plain", "lyrical"],
    "attitude": ["pessimistic", "optimistic"],
    "mindchar": ["emotional", "critical"],
}
CONTEXT, REPLY = (
    60,
    30,
)  # tokens of a context and a reply; the posterior reads both, so an example has 150 encoder tokens
NEW_TOKENS = 64
WEIGHT = 10.0


@dataclass(frozen=True)
class Size:
    """A model's size: encoder and decoder (layers, width, heads, vocabulary) and latent dimensions."""

    encoder: tuple[int, int, int, int]
    decoder: tuple[int, int, int, int]
    latent: int
    prefix: int = 4


SIZES = {
    "demo": Size((1, 128, 4, 4000), (2, 128, 4, 4000), 32, 2),
    "small": Size((6, 384, 6, 8192), (6, 384, 6, 8192), 128),
    "paper": Size((12, 768, 12, 30522), (24, 1024, 16, 50257), 768, 1),  # BERT-base and DialoGPT-medium
}


@dataclass
class Figure:
    """One measured figure.

    Attributes:
        rate, unit: how many of what per second.
        floor_rate: what the machine's own ceilings would allow; None where it was not counted.
        seconds: of one repeat, median.
        first_seconds: of the first repeat, which compiles, records and allocates.
        allocated_gb, reserved_gb: peak memory of the accelerator; None on the CPU.
    """

    what: str
    size: str
    batch: int
    rate: float
    unit: str
    seconds: float
    first_seconds: float
    floor_rate: float | None = None
    allocated_gb: float | None = None
    reserved_gb: float | None = None

    @property
    def share(self) -> float | None:
        """Share of the floor's rate that is reached."""
        return self.rate / self.floor_rate if self.floor_rate else None


def build(size: Size, device: torch.device, use_context: bool) -> MiracleModel:
    """A model of that size with random weights."""
    layers, width, heads, vocabulary = size.encoder
    encoder = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    layers, width, heads, vocabulary = size.decoder
    decoder = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=1024,
        bos_token_id=None,
        eos_token_id=None,
    )
    config = MiracleConfig(
        encoder=encoder.to_dict(), decoder=decoder.to_dict(), attributes=ATTRIBUTES, latent_size=size.latent, n_prefix=size.prefix,
        use_context=use_context, head_width=128, head_layers=2,
    )  # fmt: skip
    torch.manual_seed(0)
    with device:  # weights are drawn where they are needed
        return MiracleModel(config)


def one_each(batch: int, device: torch.device) -> torch.Tensor:
    """Targets [B, K] that name one attribute each, in turn."""
    targets = torch.full((batch, len(ATTRIBUTES)), -1, device=device)
    rows = torch.arange(batch, device=device)
    targets[rows, rows % len(ATTRIBUTES)] = rows % 2
    return targets


def example_batch(size: Size, batch: int, use_context: bool, device: torch.device) -> dict[str, torch.Tensor]:
    """Random ids of fixed lengths, as `dataset.batching.CvaeCollator` makes them."""
    source = torch.Generator().manual_seed(0)

    def ids(length: int, vocabulary: int) -> torch.Tensor:
        return torch.randint(vocabulary, (batch, length), generator=source).to(device)

    decoder_length = REPLY + (CONTEXT if use_context else 0)
    context, posterior, decoder = (
        ids(CONTEXT, size.encoder[3]),
        ids(CONTEXT + REPLY, size.encoder[3]),
        ids(decoder_length, size.decoder[3]),
    )
    labels = decoder.clone()
    labels[:, : decoder_length - REPLY] = -100
    return {
        "context_ids": context, "context_mask": torch.ones_like(context), "posterior_ids": posterior, "posterior_mask": torch.ones_like(posterior),
        "posterior_types": torch.zeros_like(posterior), "decoder_ids": decoder, "decoder_mask": torch.ones_like(decoder), "labels": labels,
        "targets": one_each(batch, device), "classified": torch.ones(batch, dtype=torch.bool, device=device), "response_length": REPLY,
    }  # fmt: skip


# --- ceilings and floors ---------------------------------------------------------------------------------------------


def matmul_rate(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    """Operations per second of a matrix product [m, k] x [k, n]."""
    m, k, n = shape
    a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
    return 2 * m * k * n / seconds_of(lambda: a @ b, device, repeats=10)


def bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.randn((256 if device.type == "cuda" else 32) * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds_of(lambda: target.copy_(source), device, repeats=10)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5, warm_up: int = 2) -> float:
    """Median seconds of one call, after a warm-up."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds_once(work, device) for _ in range(repeats))


def of_slowest(seconds: float) -> float:
    """The greatest of all processes' seconds."""
    return processes.greatest(round(seconds * 1e9)) / 1e9 if processes.several() else seconds


def seconds_once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call; CUDA events on a GPU."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def profile(work: Callable[[], object], device: torch.device, rows: int = 16) -> str:
    """Which kernels a call spends its time in, and how long the device is busy."""
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=activities) as profiler:
        wall = seconds_once(work, device)
    events = profiler.key_averages()
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    busy = sum(getattr(event, order) for event in events) / 1e6
    lines = [
        f"{wall:.4f} s by the clock, {busy:.4f} s in kernels, {sum(event.count for event in events if getattr(event, order) > 0)} of them"
    ]
    for event in sorted(events, key=lambda event: -getattr(event, order))[:rows]:
        lines.append(f"{getattr(event, order) / 1e3:9.2f} ms {event.count:6d} x {event.key[:110]}")
    return "\n".join(lines)


def layer_operations(layers: int, width: int, tokens: int, keys: int) -> float:
    """Multiply-adds times two of a transformer's layers, forward, for `tokens` tokens that attend to `keys` keys each."""
    return layers * tokens * (2 * 12 * width**2 + 4 * width * keys)


def forward_operations(size: Size, use_context: bool) -> float:
    """Operations of one example's forward pass: two encodings, the decoder, its vocabulary."""
    decoder_length = REPLY + (CONTEXT if use_context else 0)
    encoder = sum(
        layer_operations(size.encoder[0], size.encoder[1], t, t) for t in (CONTEXT, CONTEXT + REPLY)
    )
    decoder = layer_operations(
        size.decoder[0], size.decoder[1], decoder_length, decoder_length / 2 + size.prefix
    )
    return encoder + decoder + 2 * size.decoder[1] * size.decoder[3] * decoder_length


# --- what is measured ------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """The machine and its ceilings."""

    device: torch.device
    dtype: torch.dtype
    size_name: str
    use_context: bool
    repeats: int
    compiled: str | None = None  # mode of torch.compile for the training step
    graphs: bool = True
    profiled: bool = False
    candidates: int = 1

    def __post_init__(self):
        self.size = SIZES[self.size_name]
        width = self.size.decoder[1]
        self.rate = matmul_rate(
            self.device, self.dtype, (4096 if self.device.type == "cuda" else 1024, width, 4 * width)
        )
        self.bandwidth = bandwidth(self.device)
        self.bytes = torch.finfo(self.dtype).bits // 8

    def measured(
        self,
        what: str,
        batch: int,
        unit: str,
        per_call: float,
        work: Callable[[], object],
        floor_seconds: float | None,
    ) -> Figure:
        """Time `work`, which does `per_call` units."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        processes.wait_for_all()
        first = of_slowest(seconds_once(work, self.device))
        seconds = of_slowest(seconds_of(work, self.device, self.repeats))
        per_call = per_call * processes.count()
        memory = (
            (torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9)
            if self.device.type == "cuda"
            else (None, None)
        )
        if self.profiled:
            print(profile(work, self.device), file=sys.stderr, flush=True)
        floor = per_call / floor_seconds if floor_seconds else None
        return Figure(what, self.size_name, batch, per_call / seconds, unit, seconds, first, floor, *memory)

    def train(self, batch: int) -> Figure:
        """Optimizer steps: forward, backward, clipping, AdamW."""
        model = build(self.size, self.device, self.use_context).train()
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        rows = example_batch(self.size, batch, self.use_context, self.device)
        if self.compiled:
            model.compile(mode=self.compiled)

        def inputs(batch: dict) -> LossInputs:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                return model.loss_inputs(**batch, weights=LossWeights(0.05))

        def terms_of(given: LossInputs, kl: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            terms = weighted_sum(given, LossWeights(0.05, kl=kl, classification=1.0, distance=0.1))
            return terms["loss"], torch.stack([term.detach().float() for term in terms.values()])

        def forward(batch: dict, kl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                terms = model(**batch, weights=LossWeights(0.05, kl=kl, classification=1.0, distance=0.1))
            return terms["loss"], torch.stack([term.detach().float() for term in terms.values()])

        gradients: GraphedStep | SharedStep = GraphedStep(forward, parameters, self.device)
        if processes.several():
            gradients = SharedStep(inputs, terms_of, *model.decoder_first(parameters), self.device)
        gradients.records &= self.graphs

        def step() -> None:
            gradients(rows, 0.05)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        arithmetic = 3 * batch * forward_operations(self.size, self.use_context) / self.rate
        moved = (
            sum(p.numel() for p in parameters) * 4 * 7 / self.bandwidth
        )  # AdamW reads weights, gradients, two moments, and writes three of them
        return self.measured("train", batch, "examples/s", batch, step, arithmetic + moved)

    def prior_of(self, model: MiracleModel, context: torch.Tensor) -> Gaussian:
        """The priors of contexts [B, T] without padding, in the bench's precision."""
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            return model.encode_prior(context, torch.ones_like(context))

    def encode(self, batch: int) -> Figure:
        """Contexts to the priors of all attributes."""
        model = build(self.size, self.device, self.use_context).eval()
        context = example_batch(self.size, batch, self.use_context, self.device)["context_ids"]
        floor = (
            batch * layer_operations(self.size.encoder[0], self.size.encoder[1], CONTEXT, CONTEXT) / self.rate
        )
        return self.measured(
            "encode", batch, "contexts/s", batch, lambda: self.prior_of(model, context), floor
        )

    def fitted_heads(self) -> tuple[LatentHeads, Gaussian]:
        """Latent heads fitted to tell two Gaussians per attribute apart, and one that lies over all of them.

        Random heads have hardly a gradient, and an adaptive solver is done with them at once.
        """
        torch.manual_seed(0)
        heads, attributes = (
            LatentHeads(self.size.latent, [len(aspects) for aspects in ATTRIBUTES.values()], 128, 2).to(
                self.device
            ),
            len(ATTRIBUTES),
        )
        centres = torch.randn(attributes, self.size.latent, device=self.device) * 4 * self.size.latent**-0.5
        optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3)
        for _ in range(300):
            aspect = torch.randint(2, (256, attributes), device=self.device)
            z = torch.randn(256, self.size.latent, device=self.device) * 0.5 + (2.0 * aspect - 1) @ centres
            loss = sum(F.cross_entropy(logits, aspect[:, k]) for k, logits in enumerate(heads(z)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return heads, Gaussian(
            torch.zeros(1, self.size.latent, device=self.device),
            torch.zeros(1, self.size.latent, device=self.device),
        )

    def ode(self, batch: int) -> Figure:
        """Latents of all combinations at weight 10, by the defaults of the sampler."""
        heads, wide = self.fitted_heads()
        source = torch.Generator().manual_seed(0)
        prior = Gaussian(*(value.expand(batch, -1).contiguous() for value in wide))
        start = prior.sample(torch.randn(batch, self.size.latent, generator=source).to(self.device))
        targets = torch.tensor(
            [[(i >> k) & 1 for k in range(len(ATTRIBUTES))] for i in range(batch)], device=self.device
        )
        weights, stacked = torch.full((len(ATTRIBUTES),), WEIGHT, device=self.device), heads.stacked()
        evaluations = []

        def make_energy(rows: torch.Tensor):
            return aspect_energy(heads, targets[rows], weights, stacked)

        def work() -> None:
            evaluations.append(sample_ode(SamplerSettings(), start, prior, make_energy).nfe)

        per_evaluation = 2 * sum(2 * (self.size.latent * 128 + 128 * 128 + 128 * 2) for _ in ATTRIBUTES)
        figure = self.measured("ode", batch, "latents/s", batch, work, None)
        mean = float(evaluations[-1].float().mean())
        figure.floor_rate = matmul_rate(
            self.device, torch.float32, (min(batch, 8192), self.size.latent, 128 * len(ATTRIBUTES))
        ) / (per_evaluation * mean)
        figure.what = f"ode ({mean:.0f} evaluations)"
        few = torch.arange(min(batch, 32), device=self.device)
        part = Gaussian(prior.mean[few], prior.logvar[few])
        exact, rowwise = (
            sample_ode(SamplerSettings(solver=solver), start[few], part, make_energy)
            for solver in ("dopri5", "rowwise")
        )
        distance = float(((rowwise.z - exact.z).norm(dim=1) / exact.z.norm(dim=1)).mean())
        print(
            f"ode: energy {float(exact.energy_start.mean()):.3f} -> {float(rowwise.energy.mean()):.4f}, by dopri5 at 1e-5 {float(exact.energy.mean()):.4f}; latents differ by {distance:.2%}",
            file=sys.stderr,
            flush=True,
        )
        return figure

    def generate(self, batch: int) -> Figure:
        """Greedy replies of exactly `NEW_TOKENS` tokens to prompts of `CONTEXT` tokens (one token without context)."""
        model = build(self.size, self.device, self.use_context).eval()
        model.decoder.lm.to(self.dtype)
        fuse_layers(model.decoder.lm)
        z = torch.randn(batch, self.size.latent, device=self.device)
        prompt = torch.randint(
            self.size.decoder[3], (batch, CONTEXT if self.use_context else 1), device=self.device
        )

        def work() -> None:
            generate(
                model.decoder,
                z,
                prompt,
                torch.ones_like(prompt),
                eos_token_id=-1,
                pad_token_id=-2,
                max_new_tokens=NEW_TOKENS,
                graphs=self.graphs,
            )

        layers, width, _, vocabulary = self.size.decoder
        parameters = 12 * layers * width**2 + width * vocabulary
        keys = self.size.prefix + prompt.shape[1] + NEW_TOKENS / 2
        arithmetic = batch * NEW_TOKENS * 2 * parameters / self.rate
        moved = NEW_TOKENS * (parameters + batch * keys * 2 * layers * width) * self.bytes / self.bandwidth
        return self.measured("generate", batch, "tokens/s", batch * NEW_TOKENS, work, max(arithmetic, moved))

    def pipeline(self, batch: int) -> Figure:
        """`PIPELINE_CONTEXTS` contexts in all combinations, `batch` replies at once: encoding, ODE, decoding, choosing."""
        model, (heads, _) = build(self.size, self.device, self.use_context).eval(), self.fitted_heads()
        model.decoder.lm.to(self.dtype)
        fuse_layers(model.decoder.lm)
        context = example_batch(self.size, PIPELINE_CONTEXTS, self.use_context, self.device)["context_ids"]
        combinations = 2 ** len(ATTRIBUTES) * self.candidates
        rows = torch.arange(PIPELINE_CONTEXTS * combinations, device=self.device)
        targets = torch.stack([(rows // self.candidates >> k) & 1 for k in range(len(ATTRIBUTES))], dim=1)
        weights, stacked = torch.full((len(ATTRIBUTES),), WEIGHT, device=self.device), heads.stacked()
        prompt = torch.randint(
            self.size.decoder[3], (len(rows), CONTEXT if self.use_context else 1), device=self.device
        )

        def work() -> None:
            priors = self.prior_of(model, context)
            shared = Gaussian(priors.mean[rows // combinations], priors.logvar[rows // combinations])
            prior = combine(shared, targets >= 0, "average")
            z = sample_ode(
                SamplerSettings(),
                prior.sample(torch.randn_like(prior.mean)),
                prior,
                lambda r: aspect_energy(heads, targets[r], weights, stacked),
            ).z
            written: list[list[int]] = []
            for part in rows.split(batch):
                written += generate(
                    model.decoder,
                    z[part],
                    prompt[part],
                    torch.ones_like(prompt[part]),
                    eos_token_id=-1,
                    pad_token_id=-2,
                    max_new_tokens=NEW_TOKENS,
                    graphs=self.graphs,
                )
            if self.candidates > 1:
                self.choose(model, prior.mean, targets, prompt.tolist(), written, batch)

        replies = len(rows) // self.candidates
        return self.measured("pipeline", batch, "replies/s", replies, work, None)

    def choose(
        self, model: MiracleModel, reference: torch.Tensor, targets: torch.Tensor, prompts: list, replies: list, batch: int
    ) -> list[int]:  # fmt: skip
        """The best candidate of each reply: heads on the posterior, and both likelihoods, as `generation.generator` weighs them."""

        def autocast():
            return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

        def rows(prompts: list) -> list[dict]:
            return [{"input_ids": p + r, "labels": [IGNORED] * len(p) + r} for p, r in zip(prompts, replies)]

        attributes = []
        for number in torch.arange(len(replies)).split(batch):
            read = [(prompts[i] + replies[i])[: CONTEXT + REPLY] for i in number.tolist()]
            ids = torch.tensor(read, device=self.device) % self.size.encoder[3]
            with torch.no_grad(), autocast():
                posterior = model.encode_posterior(ids, torch.ones_like(ids), torch.zeros_like(ids))
            log_probabilities = [
                logits.float().log_softmax(-1).gather(1, targets[number, k : k + 1])
                for k, logits in enumerate(model.heads(posterior.mean.float()))
            ]
            attributes.append(torch.cat(log_probabilities, 1).sum(1).detach().cpu())
        beginnings = [[reply[0]] for reply in replies]  # a decoder reads something in front of a first token
        scores = candidate_scores(
            torch.cat(attributes), rows(prompts), rows(beginnings), model.decoder, reference, 0, batch
        )
        return scores.best(self.candidates, 0.5, 0.5)


PIPELINE_CONTEXTS = 300
DEFAULT_BATCHES = {"train": 32, "encode": 64, "ode": 1024, "generate": 64, "pipeline": 600}


def table(figures: list[Figure]) -> str:
    """A line per figure."""
    lines = [
        "what                  size   batch        rate unit           seconds     first  of floor  allocated  reserved"
    ]
    for f in figures:
        share = "-" if f.share is None else f"{f.share:.0%}"
        memory = ["-" if value is None else f"{value:.1f} GB" for value in (f.allocated_gb, f.reserved_gb)]
        lines.append(
            f"{f.what:<21} {f.size:<6} {f.batch:>5} {f.rate:>11,.0f} {f.unit:<12} {f.seconds:>9.4f} {f.first_seconds:>9.3f} {share:>9} {memory[0]:>10} {memory[1]:>9}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", nargs="+", choices=tuple(DEFAULT_BATCHES), help="what to measure")
    options.add_argument("--size", choices=SIZES, default="demo", help="(default: demo)")
    options.add_argument(
        "--batch", type=int, nargs="+", help="batch sizes, a row each; default: one that suits the work"
    )
    options.add_argument("--context", action="store_true", help="the decoder reads the context too")
    options.add_argument(
        "--precision", choices=("fp32", "bf16"), help="default: bf16 on a GPU, fp32 on the CPU"
    )
    options.add_argument(
        "--compile",
        choices=("default", "reduce-overhead", "max-autotune"),
        help="torch.compile the training step",
    )
    options.add_argument("--no-graphs", action="store_true", help="record no CUDA graphs")
    options.add_argument("--profile", action="store_true", help="print which kernels the time goes to")
    options.add_argument("--threads", type=int, help="CPU threads")
    options.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    options.add_argument("--memory-gb", type=float, help="imitate a card with that much memory")
    options.add_argument("--processes", type=int, default=1, help="how many do the same at once (default: 1)")
    options.add_argument("--candidates", type=int, default=1, help="of pipeline, for each reply (default: 1)")
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = parser().parse_args(argv)
    if options.processes > 1 and not processes.several():
        return launch(options.processes, ["-m", "scripts.bench", *(sys.argv[1:] if argv is None else argv)])
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.memory_gb and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            options.memory_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory
        )
    precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    bench = Bench(
        device,
        torch.bfloat16 if precision == "bf16" else torch.float32,
        options.size,
        options.context,
        options.repeats,
        options.compile,
        not options.no_graphs,
        options.profile,
        options.candidates,
    )
    figures = []
    for what in options.what:
        for batch in options.batch or [DEFAULT_BATCHES[what]]:
            try:
                figures.append(getattr(bench, what)(batch))
            except torch.OutOfMemoryError:
                print(f"{what} {options.size} batch {batch}: out of memory", flush=True)
    if options.json:
        ceilings = {"matmul_per_second": bench.rate, "bytes_per_second": bench.bandwidth}
        machine = {
            "device": device_name(),
            "precision": precision,
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
            "versions": package_versions(),
        }
        print(
            json.dumps(
                {
                    "machine": machine,
                    "ceilings": ceilings,
                    "figures": [asdict(f) | {"share_of_floor": f.share} for f in figures],
                },
                indent=2,
            )
        )
    else:
        print(
            f"{device_name()}, {precision}: matrix products {bench.rate / 1e12:.2f} T operations/s, copies {bench.bandwidth / 1e9:.0f} GB/s"
        )
        print(table(figures))
    return 0


if __name__ == "__main__":
    run_main(main)
