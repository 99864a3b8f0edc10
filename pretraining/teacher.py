"""Dialogues for the tiny bases to read: SmolLM2, fine-tuned on the corpus's training split, writes both speakers' turns.

python -m pretraining.teacher --decoder data/bases/smollm2/decoder --out outs/pretraining/written --dialogues 400000

What is written is sampled by the device's own noise, so that it repeats on the same kind of GPU only; a shard that is there is
not written again.
"""

import argparse
import gzip
import json
import math
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import Cache, PreTrainedModel  # noqa: E402

from baselines.language_model import LanguageModel, PlainDecoder, Step, precise, uncontrolled  # noqa: E402
from baselines.training import TrainingSetting  # noqa: E402
from common.devices import choose_device  # noqa: E402
from common.schema import load_schema  # noqa: E402
from dataset.batching import batches_by_length, pad_inputs  # noqa: E402
from dataset.chat_template import template_of  # noqa: E402
from dataset.encoding import DialogueTemplate, text_ids  # noqa: E402
from generation.decoding import generate  # noqa: E402
from generation.options import DecodingArguments  # noqa: E402
from model.bases import load_decoder_tokenizer  # noqa: E402

Turns = tuple[str, ...]
TEMPERATURES = (1.0, 0.8)  # of a user's turn, which gives the subject, and of a reply, which should fit it
MIN_P = (0.02, 0.05)
LONGEST = 72  # tokens of a turn
AGAIN = 2  # replies to one context


class SamplingDecoder(PlainDecoder):
    """A causal LM whose logits carry Gumbel noise, so that the largest one is a draw (Maddison et al., 2014): no vocabulary
    is sorted. Tokens less likely than `min_p` times the likeliest are never drawn (Nguyen et al., ICLR 2025)."""

    def __init__(self, lm: PreTrainedModel, temperature: float, min_p: float):
        super().__init__(lm)
        self.temperature, self.margin = temperature, math.log(min_p)

    def call(self, step: Step, mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache | None, logits_to_keep: int = 0) -> torch.Tensor:  # fmt: skip
        """Perturbed logits, [B, T or logits_to_keep, V]."""
        logits = super().call(step, mask, position_ids, cache, logits_to_keep).float()
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + self.margin, -torch.inf)
        return logits / self.temperature - torch.empty_like(logits).exponential_().log_()


def prompt(template: DialogueTemplate, turns: Turns) -> tuple[list[str], str]:
    """The marks in front of each turn, and what ends the text: the mark of the speaker whose turn it is."""
    marks, before = [], template.start
    for number in range(len(turns)):
        marks.append(before + (template.user_prefix, template.assistant_prefix)[number % 2])
        reply_end = template.turn_end if template.reply_end is None else template.reply_end
        before = (template.turn_end, reply_end)[number % 2]
    return marks, before + (template.user_prefix, template.assistant_prefix)[len(turns) % 2]


def prompt_ids(model: LanguageModel, contexts: list[Turns]) -> list[dict]:
    """Token ids of the context that the next speaker answers, ``{"input_ids"}`` per context; an empty context asks for a first turn."""

    def marker(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    different = list(dict.fromkeys(turn for turns in contexts for turn in turns))
    ids = dict(zip(different, text_ids(model.tokenizer, [model.template.turn_start + t for t in different])))
    rows = []
    for turns in contexts:
        marks, last = prompt(model.template, turns)
        row = [token for mark, turn in zip(marks, turns) for token in marker(mark) + ids[turn]]
        rows.append({"input_ids": row + marker(last)})
    return rows


def next_turns(model: LanguageModel, contexts: list[Turns], batch_size: int) -> list[str]:
    """One sampled turn per context, by whoever speaks next; empty where it did not end within `LONGEST` tokens."""
    speaker = len(contexts[0]) % 2
    decoder = SamplingDecoder(model.lm, TEMPERATURES[speaker], MIN_P[speaker])
    rows, texts = prompt_ids(model, contexts), [""] * len(contexts)
    for indices in batches_by_length(rows, batch_size):
        batch = pad_inputs([rows[index] for index in indices], model.tokenizer.pad_token_id, side="left")
        tokens = generate(
            decoder,
            torch.tensor(indices, device=model.device),
            batch["input_ids"].to(model.device),
            batch["attention_mask"].to(model.device),
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=model.tokenizer.pad_token_id,
            max_new_tokens=LONGEST,
        )
        for index, text in zip(indices, model.tokenizer.batch_decode(tokens, skip_special_tokens=True)):
            if len(tokens[indices.index(index)]) < LONGEST:
                texts[index] = " ".join(text.split())
    return texts


def write_dialogues(model: LanguageModel, size: int, batch_size: int) -> list[Turns]:
    """About `size` dialogues of two or four turns: `AGAIN` replies to every first turn, and to every second question."""

    def answered(contexts: list[Turns]) -> list[Turns]:
        contexts = [turns for turns in contexts for _ in range(AGAIN)]
        texts = next_turns(model, contexts, batch_size)
        return [(*turns, text) for turns, text in zip(contexts, texts) if text]

    first = [(text,) for text in next_turns(model, [()] * max(1, size // (2 * AGAIN)), batch_size) if text]
    short = answered(first)
    asked = [turns for turns in short[::AGAIN] if turns]
    more = next_turns(model, asked, batch_size)
    return short + answered([(*turns, text) for turns, text in zip(asked, more) if text])


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--decoder", required=True, help="the teacher, by folder or hub name")
    options.add_argument("--out", type=Path, required=True, help="folder of the shards, .jsonl.gz")
    options.add_argument("--dialogues", type=int, default=400_000, help="to write (%(default)s)")
    options.add_argument("--shard", type=int, default=32_768, help="dialogues in a file (%(default)s)")
    options.add_argument("--batch-size", type=int, default=4096, help="turns written at once (%(default)s)")
    options.add_argument("--epochs", type=int, default=4, help="of the teacher's fine-tuning (%(default)s)")
    options.add_argument("--limit", type=int, help="training dialogues per attribute; default: all")
    options.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    options.add_argument("--device", help="cuda, mps or cpu; default: CUDA, MPS or CPU, in that order")
    return options


def teacher(options: argparse.Namespace) -> LanguageModel:
    """The base, fine-tuned on both speakers' turns of the corpus's training split."""
    device = choose_device(options.device)
    template = template_of(load_decoder_tokenizer(options.decoder), DialogueTemplate())
    setting = TrainingSetting(
        load_schema("schema.py"), options.decoder, template, device,
        epochs=options.epochs, batch_size=64, learning_rate=1e-4, context_weight=1.0, limit=options.limit,
    )  # fmt: skip
    model = uncontrolled(setting, {})
    lm = precise(model.lm, DecodingArguments(), device)
    return LanguageModel(lm, model.tokenizer, template, model.decoder_length, device)


def main(argv: list[str] | None = None) -> int:
    """Write the shards; returns the exit status."""
    options = parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    count = -(-options.dialogues // options.shard)
    paths = [options.out / f"{options.seed}-{number:04d}.jsonl.gz" for number in range(count)]
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return 0
    model = teacher(options)
    for path in tqdm(missing, desc="shards"):
        torch.manual_seed(options.seed * 100_003 + paths.index(path))
        dialogues = write_dialogues(model, options.shard, options.batch_size)
        lines = "".join(json.dumps({"turns": turns}, ensure_ascii=False) + "\n" for turns in dialogues)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(gzip.compress(lines.encode(), 6))
        temporary.replace(path)
        print(f"{path}: {len(dialogues)} dialogues", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
