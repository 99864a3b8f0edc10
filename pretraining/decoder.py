"""Pre-train a tiny decoder by next-token prediction.

python -m pretraining.decoder --text outs/pretraining/text --out outs/pretraining/decoder
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from common.entry import prepare_libraries, run_main

prepare_libraries()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase  # noqa: E402

from common.devices import choose_device  # noqa: E402
from common.locks import exclusive  # noqa: E402
from model.bases import load_decoder, load_decoder_tokenizer  # noqa: E402
from model.decoder import fuse_norms  # noqa: E402
from pretraining import texts  # noqa: E402
from pretraining.loop import common_options, optimise, save  # noqa: E402
from pretraining.vocabulary import decoder_tokenizer, dialogue_ids  # noqa: E402

POSITIONS = 512


def configuration(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """A small LLaMA: rotary positions, RMS norms, gated units, one matrix for both ends of the vocabulary."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        intermediate_size=-(-8 * options.width // 3) // 32 * 32,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.5 * options.width**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def stream(tokenizer: PreTrainedTokenizerBase, dialogues: list[texts.Turns]) -> np.ndarray:
    """All dialogues one behind the other as token ids (uint16), [N]."""
    parts = []
    for start in range(0, len(dialogues), 50_000):
        rows = dialogue_ids(tokenizer, dialogues[start : start + 50_000])
        parts.append(np.concatenate([np.array(row, dtype=np.uint16) for row in rows]))
    return np.concatenate(parts)


def shuffled(dialogues: list[texts.Turns], seed: int) -> list[texts.Turns]:
    """In random order, so that one context's replies do not stand together."""
    return [dialogues[index] for index in np.random.default_rng(seed).permutation(len(dialogues))]


def batches(tokens: np.ndarray, size: int, length: int, device: torch.device, seed: int) -> Iterator[torch.Tensor]:  # fmt: skip
    """Windows of the stream, [size, length + 1], each epoch in another order and from another offset, without end."""
    token_ids = torch.from_numpy(tokens.astype(np.int32)).to(device)
    generator = torch.Generator().manual_seed(seed)
    while True:
        offset = int(torch.randint(length, (1,), generator=generator))
        count = (len(tokens) - offset - 1) // length
        order = torch.randperm(count, generator=generator) * length + offset
        for starts in order[: max(1, count // size) * size].split(size):
            yield token_ids[(starts.unsqueeze(1) + torch.arange(length + 1)).to(device)].long()


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Nats per token."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def nats_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, dialogues: list[texts.Turns], device: torch.device) -> float:  # fmt: skip
    """What dialogues cost, each on its own and whole, over the bytes of their turns: comparable between vocabularies."""
    rows = sorted(dialogue_ids(tokenizer, dialogues), key=len)
    total = 0.0
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        ids = torch.full((len(part), max(map(len, part))), -100)
        for number, row in enumerate(part):
            ids[number, : len(row)] = torch.tensor(row)
        ids = ids.to(device)
        logits = model(input_ids=ids.clamp_min(0)[:, :-1], use_cache=False).logits
        total += float(F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum"))
    return total / max(1, texts.size_of(dialogues))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = common_options(__doc__, vocabulary=4096, layers=7, batch=256, learning_rate=2e-3)
    options.set_defaults(corpus_times=1)  # read more often, a small corpus is learnt by heart
    options.add_argument("--tokens", type=float, default=150e6, help="to read in all (%(default)s)")
    options.add_argument(
        "--start-from", type=Path, help="folder of a decoder to go on from, its vocabulary and size"
    )
    options.add_argument("--compile", action="store_true", help="compile the loss (needs a C++ compiler)")
    options.add_argument("--length", type=int, default=192, help="tokens of a window, of which a step has --batch (%(default)s)")  # fmt: skip
    return options


def main(argv: list[str] | None = None) -> int:
    """Pre-train; returns the exit status."""
    options = parser().parse_args(argv)
    with exclusive(options.out, "decoder", "name another --out"):
        return pretrain(options)


def pretrain(options: argparse.Namespace) -> int:
    """Pre-train into the options' folder; returns the exit status."""
    device = choose_device(options.device)
    torch.manual_seed(options.seed)
    ours = texts.written(options.text, "train")
    bundled = texts.corpus("train")
    more = list(texts.further(options.further)) if options.further else []
    if options.start_from:
        tokenizer, model = (
            load_decoder_tokenizer(str(options.start_from)),
            load_decoder(str(options.start_from)),
        )
    else:
        tokenizer = decoder_tokenizer((turn for turns in ours[:300_000] + bundled for turn in turns), options.vocabulary)  # fmt: skip
        model = LlamaForCausalLM(configuration(options, tokenizer))
    model = model.float().to(device)
    tokens = stream(tokenizer, shuffled(ours + bundled * options.corpus_times + more, options.seed))
    fuse_norms(model)
    held_out = {"teacher": texts.written(options.text, "dev")[:2000], "corpus": texts.corpus("dev")}
    steps = max(1, int(options.tokens) // (options.batch * options.length))
    loss = torch.compile(loss_of) if options.compile else loss_of
    result = optimise(
        "decoder", model, batches(tokens, options.batch, options.length, device, options.seed),
        lambda batch: {"nats": loss(model, batch)}, steps, options.learning_rate, device,
        lambda: {f"{name}_nats_per_byte": nats_per_byte(model, tokenizer, some, device) for name, some in held_out.items()},
        best="corpus_nats_per_byte",
    )  # fmt: skip
    save("decoder", model, tokenizer, options, {"stream": len(tokens)}, result)
    return 0


if __name__ == "__main__":
    run_main(main)
