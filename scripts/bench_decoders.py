"""Decoders of half a billion to three billion parameters: training and decoding beside their floors. ``python -m scripts.bench_decoders``

Random weights at the shapes of `scripts.shapes`, nothing is downloaded; `--memory-gb` imitates a smaller card. Training: whole
optimizer steps of `--examples` dialogues (60 tokens of context, 30 of reply), in as many batches as memory asks for, once with
the decoder's layers kept and once with them computed again in the backward pass, of which the faster counts; with adapters of rank 16 on a bf16 decoder, on a 4-bit one (needs bitsandbytes), and of all weights (AdamW in fp32, with 8-bit
moments by bitsandbytes, or with these and the decoder in bf16, ``--bf16_decoder``). Tokens are the decoder's. What does not fit is said in a line with what would.

Floors: for training the arithmetic of forward and backward (of frozen weights no gradient) over the rate of matrix products;
for decoding that or the bytes of weights and cache over the bandwidth of copies, the larger; both rates are measured here.
"""

import argparse
import csv
import dataclasses
import gc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from common.entry import Parser, run_main
from common.provenance import device_name
from generation.decoding import generate
from model.checkpointing import checkpoint_layers
from model.cvae import MiracleModel
from model.fused_layers import fuse_layers
from model.losses import LossWeights
from model.quantised import hold_in_4bit
from scripts.bench import bandwidth, matmul_rate, profile, seconds_of, seconds_once
from scripts.bench_processes import CONTEXT, NEW_TOKENS, REPLY
from scripts.shapes import ATTRIBUTES, Setup, build, decoders, encoders
from training.bf16_weights import hold_in_bf16, rounding_adamw
from training.recorded_step import GraphedStep

BILLION = 1e9
LARGE = ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Llama-3.2-1B", "Llama-3.2-3B")
BYTES_A_PARAMETER = {  # of weights, gradients and moments where all are trained
    "all weights": 4 + 4 + 8,
    "all weights, 8-bit moments": 4 + 4 + 2,
    "all weights, bf16, 8-bit moments": 2 + 2 + 2,
}
MODES = ("adapters", "adapters, 4 bits", *BYTES_A_PARAMETER)
NEEDS_BITSANDBYTES = tuple(mode for mode in MODES if "bit" in mode)


@dataclass(frozen=True)
class DecoderFigure:
    """One measured rate.

    Attributes:
        batch: examples computed at once, or replies decoded at once.
        recomputed: whether layers were computed again in the backward pass.
        rate, floor: tokens per second.
        memory_gb: the most that PyTorch held; None on a CPU.
    """

    decoder: str
    what: str
    batch: int
    rate: float
    floor: float
    memory_gb: float | None
    recomputed: bool = False


def numbers_of(config: PreTrainedConfig) -> tuple[float, float]:
    """Weights of a decoder's layers, which every token is multiplied by, and of its vocabulary's embedding."""
    head = config.hidden_size // config.num_attention_heads
    attention = config.hidden_size * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * layer, config.vocab_size * config.hidden_size


def forward_operations(config: PreTrainedConfig, tokens: int, keys: float, predicted: int) -> float:
    """Of a text: multiply-adds times two of its layers, attention to `keys` keys a token, and the vocabulary of what is predicted."""
    layers, vocabulary = numbers_of(config)
    attention = 4 * config.num_hidden_layers * config.hidden_size * keys
    return tokens * (2 * layers + attention) + predicted * 2 * vocabulary


def cache_bytes(config: PreTrainedConfig, tokens: float) -> float:
    """Of keys and values in bf16, of the shared heads alone."""
    head = config.hidden_size // config.num_attention_heads
    return tokens * config.num_hidden_layers * 2 * config.num_key_value_heads * head * 2


class Machine:
    """The device and its ceilings, for a decoder's width.

    Args:
        memory_gb: that the device is limited to; None: all that it has.
    """

    def __init__(self, width: int, memory_gb: float | None = None):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        rows = 8192 if self.device.type == "cuda" else 256
        self.products = matmul_rate(self.device, self.dtype, (rows, width, 4 * width))
        self.bandwidth = bandwidth(self.device)
        self.bytes = torch.finfo(self.dtype).bits // 8
        self.room = float("inf")  # bytes; a CPU's are not limited
        if self.device.type == "cuda":
            self.room = memory_gb * BILLION if memory_gb else torch.cuda.mem_get_info()[1]

    def memory(self) -> float | None:
        """Gigabytes held at most since `clear`."""
        return torch.cuda.max_memory_reserved() / BILLION if self.device.type == "cuda" else None

    def clear(self) -> None:
        """Give back what is no longer used."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def example_batch(decoder: str, rows: int, device: torch.device) -> dict[str, torch.Tensor | int]:
    """Random ids of fixed lengths."""
    source = torch.Generator().manual_seed(0)

    def ids(length: int, vocabulary: int) -> torch.Tensor:
        return torch.randint(vocabulary, (rows, length), generator=source).to(device)

    reads, writes = encoder_of(decoder).vocab_size, decoders()[decoder].vocab_size
    texts = (ids(CONTEXT, reads), ids(CONTEXT + REPLY, reads), ids(CONTEXT + REPLY, writes))
    batch: dict[str, torch.Tensor | int] = {
        f"{name}_{part}": value
        for name, tokens in zip(("context", "posterior", "decoder"), texts)
        for part, value in (("ids", tokens), ("mask", torch.ones_like(tokens)))
    }
    labels = texts[2].clone()
    labels[:, :CONTEXT] = -100
    row_numbers = torch.arange(rows, device=device)
    batch |= {"posterior_types": torch.zeros_like(texts[1]), "labels": labels, "response_length": REPLY}
    targets = torch.full((rows, len(ATTRIBUTES)), -1, device=device)
    targets[row_numbers, row_numbers % len(ATTRIBUTES)] = row_numbers % 2
    return batch | {"targets": targets}


def setup_of(decoder: str, rank: int) -> Setup:
    """The decoder with a small encoder, as the preset chat has it."""
    return Setup("tiny" if decoder == "tiny" else "minilm", decoder, 64, 2, rank)


def encoder_of(decoder: str) -> PreTrainedConfig:
    """The encoder beside it."""
    return encoders()[setup_of(decoder, 0).encoder]


# --- training ----------------------------------------------------------------------------------------------------------


def training_step(
    decoder: str, mode: str, examples: int, machine: Machine, recomputed: bool
) -> Callable[[int], None]:
    """An optimizer step of `examples` dialogues, so many at once; on a GPU the steps are recorded.

    Args:
        recomputed: whether the decoder's layers are computed again in the backward pass.
    """
    model = build(setup_of(decoder, 16 if mode.startswith("adapters") else 0), machine.device).train()
    if mode == "adapters, 4 bits":
        hold_in_4bit(model.decoder.lm, machine.device, machine.dtype)
        machine.clear()
    if in_bf16 := "bf16" in mode:
        hold_in_bf16(model.decoder.lm)
        machine.clear()
    if recomputed:
        checkpoint_layers(model.decoder.lm)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if mode.endswith("8-bit moments"):
        optimizer = rounding_adamw()(trained, lr=1e-4, optim_bits=8)
    else:
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    weights = LossWeights(0.05, classification=1.0, distance=0.1)

    def forward(rows: dict, kl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(
            machine.device.type, torch.bfloat16, enabled=in_bf16 or machine.dtype == torch.bfloat16
        ):
            loss = model(**rows, weights=weights.replace(kl=kl))["loss"]
        return loss, loss

    gradients = GraphedStep(forward, trained, machine.device)
    rows_of: dict[int, dict] = {}  # of the batch size under way

    def step(batch: int) -> None:
        if batch not in rows_of:
            gradients.forget()
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()  # of a step that memory cut short
            rows_of.clear()
            rows_of[batch] = example_batch(decoder, batch, machine.device)
        for _ in range(examples // batch):
            gradients(rows_of[batch], 0.05, batch / examples)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def train(
    decoder: str, mode: str, examples: int, machine: Machine, repeats: int, profiled: bool = False
) -> DecoderFigure | str:
    """The better rate of layers kept and layers computed again, with the largest batch that fits; or in a line what does not fit."""
    machine.clear()
    parameters = sum(numbers_of(decoders()[decoder]))
    if parameters * BYTES_A_PARAMETER.get(mode, 0) > machine.room:
        return does_not_fit(decoder, mode)
    figures = []
    for recomputed in (False, True):
        machine.clear()
        try:
            step = training_step(decoder, mode, examples, machine, recomputed)
        except torch.OutOfMemoryError:
            break
        figure = training_figure(decoder, mode, examples, machine, repeats, step, profiled)
        if figure is not None:
            figures.append(dataclasses.replace(figure, recomputed=recomputed))
        del step
    return max(figures, key=lambda figure: figure.rate) if figures else does_not_fit(decoder, mode)


def training_figure(
    decoder: str,
    mode: str,
    examples: int,
    machine: Machine,
    repeats: int,
    step: Callable[[int], None],
    profiled: bool,
) -> DecoderFigure | None:
    """The rate of a step with the largest batch that fits; None where not even one example does."""
    share = (
        2 if mode.startswith("adapters") else 3
    )  # passes' worth of products: of frozen weights no gradients
    text = forward_operations(decoders()[decoder], CONTEXT + REPLY, (CONTEXT + REPLY) / 2 + 2, REPLY)
    tokens, batch = examples * (CONTEXT + REPLY), examples
    while batch >= 1:
        machine.clear()
        try:
            work = partial(step, batch)
            seconds_once(work, machine.device)
            seconds = seconds_of(work, machine.device, repeats, 1)
        except torch.OutOfMemoryError:
            batch //= 2
            continue
        if profiled:
            print(profile(work, machine.device, 24), flush=True)
        floor = tokens * machine.products / (share * examples * text)
        return DecoderFigure(decoder, f"train, {mode}", batch, tokens / seconds, floor, machine.memory())
    return None


def does_not_fit(decoder: str, mode: str) -> str:
    """What does not fit, why, and what would."""
    parameters = sum(numbers_of(decoders()[decoder]))
    if mode in BYTES_A_PARAMETER:
        need = parameters * BYTES_A_PARAMETER[mode] / BILLION
        reason = f"weights, gradients and AdamW's moments of {parameters / BILLION:.2f} B parameters take {need:.1f} GB before any batch"
        further = {
            "all weights": ", or --optim adamw_bnb_8bit",
            "all weights, 8-bit moments": ", or --bf16_decoder true",
        }
        remedy = "--lora_rank 16" + further.get(mode, "")
    else:
        reason = f"{parameters / BILLION:.2f} B frozen parameters take {parameters * (0.5 if '4 bits' in mode else 2) / BILLION:.1f} GB"
        remedy = "a larger card" if "4 bits" in mode else "--load_4bit"
    return f"{decoder}: {mode} does not fit at a batch of one: {reason}; what would fit: {remedy}"


# --- decoding ----------------------------------------------------------------------------------------------------------


def decode(
    decoder: str, batch: int, model: MiracleModel, machine: Machine, repeats: int
) -> DecoderFigure | str:
    """Greedy replies of `NEW_TOKENS` tokens behind a prompt of `CONTEXT`."""
    config, device = decoders()[decoder], machine.device
    machine.clear()
    z = torch.randn(batch, model.config.latent_size, device=device)
    prompt = torch.randint(config.vocab_size, (batch, CONTEXT), device=device)

    def work() -> None:
        generate(model.decoder, z, prompt, torch.ones_like(prompt), eos_token_id=-1, pad_token_id=-2, max_new_tokens=NEW_TOKENS)  # fmt: skip

    try:
        seconds_once(work, device)
        seconds = seconds_of(work, device, repeats, 1)
    except torch.OutOfMemoryError:
        return f"{decoder}: decoding {batch} replies at once does not fit; half of them: --batch_size {batch // 2}"
    read = (
        sum(numbers_of(config)) + cache_bytes(config, batch * (CONTEXT + NEW_TOKENS / 2)) / 2
    ) * machine.bytes
    keys = CONTEXT + NEW_TOKENS / 2 + 2
    step = max(read / machine.bandwidth, batch * forward_operations(config, 1, keys, 1) / machine.products)
    prompts = batch * forward_operations(config, CONTEXT, CONTEXT / 2 + 2, 0) / machine.products
    tokens = batch * NEW_TOKENS
    return DecoderFigure(decoder, "decode", batch, tokens / seconds, tokens / (NEW_TOKENS * step + prompts), machine.memory())  # fmt: skip


def decoding_model(decoder: str, machine: Machine) -> MiracleModel:
    """With merged adapters, in bf16 on a GPU, as `generation.generator` has it."""
    model = build(setup_of(decoder, 0), machine.device).eval()
    model.decoder.lm.to(machine.dtype)
    fuse_layers(model.decoder.lm)
    machine.clear()
    return model


# --- all ---------------------------------------------------------------------------------------------------------------


def measure(decoder: str, options: argparse.Namespace) -> list[DecoderFigure | str]:
    """Everything of one decoder."""
    machine = Machine(decoders()[decoder].hidden_size, options.memory_gb)
    figures: list[DecoderFigure | str] = []
    for mode in options.modes:
        if mode in NEEDS_BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
            figures.append(f"{decoder}: {mode} needs bitsandbytes: python -m pip install bitsandbytes")
            continue
        figures.append(train(decoder, mode, options.examples, machine, options.repeats, options.profile))
        print(figures[-1] if isinstance(figures[-1], str) else line(figures[-1]), flush=True)
    try:
        machine.clear()
        model = decoding_model(decoder, machine)
    except torch.OutOfMemoryError:
        return [*figures, f"{decoder}: its weights in fp32 do not fit, from which bf16's are made"]
    for batch in options.batch:
        figures.append(decode(decoder, batch, model, machine, options.repeats))
        print(figures[-1] if isinstance(figures[-1], str) else line(figures[-1]), flush=True)
    return figures


def line(f: DecoderFigure) -> str:
    """A figure in a line."""
    memory = "-" if f.memory_gb is None else f"{f.memory_gb:.1f} GB"
    return f"{f.decoder:<13} {f.what + (', recomputed' if f.recomputed else ''):<51} {f.batch:>4} {f.rate:>10,.0f} tokens/s {f.rate / f.floor:>6.0%} of {f.floor:>11,.0f} {memory:>8}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name, config in decoders().items() if hasattr(config, "num_key_value_heads")]
    options.add_argument("--decoders", nargs="+", choices=known, default=list(LARGE), help="default: the four large ones")  # fmt: skip
    options.add_argument(
        "--modes", nargs="*", choices=MODES, default=list(MODES), help="of training; default: all"
    )
    options.add_argument("--examples", type=int, default=64, help="of a training step (default: 64)")
    options.add_argument("--batch", type=int, nargs="*", default=[1, 64, 512], help="replies decoded at once (default: 1 64 512)")  # fmt: skip
    options.add_argument("--memory-gb", type=float, help="imitate a card with that much memory")
    options.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    options.add_argument(
        "--profile", action="store_true", help="print which kernels a training step's time goes to"
    )
    options.add_argument("--csv", type=Path, help="write the figures there too")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = parser().parse_args(argv)
    if options.memory_gb and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_gb * BILLION / total))
    limit = f", limited to {options.memory_gb:g} GB" if options.memory_gb else ""
    print(f"{device_name()}{limit}: decoder, work, batch, rate, share of the floor, memory", flush=True)
    figures = [figure for decoder in options.decoders for figure in measure(decoder, options)]
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(options.csv, "w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([field.name for field in dataclasses.fields(DecoderFigure)])
            writer.writerows(dataclasses.astuple(f) for f in figures if isinstance(f, DecoderFigure))
    return 0


if __name__ == "__main__":
    run_main(main)
