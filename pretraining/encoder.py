"""Pre-train a tiny encoder: masked words, whether a reply belongs to its context, and a teacher's sentence vectors.

python -m pretraining.encoder --text outs/pretraining/text --teacher data/bases/smollm2/encoder --out outs/pretraining/encoder

Masked words and whether two texts belong together are BERT's two tasks (Devlin et al., NAACL 2019); wrong replies are here also
right ones out of order, so that an evaluator that starts from this encoder is sensitive to word order. The vectors are those of a sentence
encoder, matched by their cosine (Reimers and Gurevych, EMNLP 2020).
"""

import argparse
import os
import random
from collections.abc import Callable, Iterator

from common.entry import prepare_libraries, run_main

prepare_libraries()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402

from common.devices import choose_device  # noqa: E402
from common.locks import exclusive  # noqa: E402
from dataset.batching import pad_inputs  # noqa: E402
from dataset.encoding import encode_contexts, encode_texts  # noqa: E402
from dataset.nli import CORRUPTIONS  # noqa: E402
from model.bases import load_encoder, load_tokenizer  # noqa: E402
from pretraining import texts  # noqa: E402
from pretraining.loop import common_options, optimise, save  # noqa: E402
from pretraining.vocabulary import encoder_tokenizer  # noqa: E402

MASKED = 0.2  # of the words
LONGEST = 96  # tokens
DISORDER = ("shuffled", "swapped", "neighbours")  # what a right reply is made wrong by


def configuration(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    """A small BERT."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        intermediate_size=4 * options.width,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )


class PretrainedEncoder(nn.Module):
    """The encoder and what it is trained by; only the encoder is kept."""

    def __init__(self, config: BertConfig, vector_size: int):
        super().__init__()
        self.encoder = BertModel(config)
        self.transform = nn.Sequential(nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.LayerNorm(config.hidden_size))  # fmt: skip
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.belongs = nn.Linear(config.hidden_size, 2)
        self.vector = nn.Linear(config.hidden_size, vector_size)

    def words(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of masked words [M, V] from their states [M, H]."""
        return F.linear(self.transform(states), self.encoder.embeddings.word_embeddings.weight, self.bias)

    def vectors(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """A text's vector, from the mean over its tokens, [B, D]."""
        return self.vector(mean_states(self.encoder, batch))


def mean_states(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean of the last states over the real tokens, [B, H]."""
    mask = batch["attention_mask"].unsqueeze(-1)
    return (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def masked(ids: torch.Tensor, ordinary: torch.Tensor, mask_id: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Ids [B, T] with some words hidden, eight in ten by the mask and one by another word, and which, [B, T] (bool)."""
    is_masked = (torch.rand(ids.shape, generator=generator) < MASKED) & torch.isin(ids, ordinary)
    kind = torch.rand(ids.shape, generator=generator)
    others = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
    hidden = torch.where(kind < 0.8, mask_id, torch.where(kind < 0.9, others, ids))
    return torch.where(is_masked, hidden, ids), is_masked


class Reader:
    """Makes batches of texts; everything that is drawn is drawn here, by one seed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dialogues: list[texts.Turns], teacher_tokenizer: PreTrainedTokenizerBase, seed: int):  # fmt: skip
        self.tokenizer, self.teacher_tokenizer, self.dialogues = tokenizer, teacher_tokenizer, dialogues
        self.rng, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.ordinary = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))

    def reply(self, turns: texts.Turns) -> tuple[str, int]:
        """A reply for a dialogue's context, and whether it is its own: half are, a quarter are others', a quarter out of order."""
        draw = self.rng.random()
        if draw < 0.5:
            return turns[-1], 1
        if draw < 0.75:
            return self.rng.choice(self.dialogues)[-1], 0
        made = CORRUPTIONS[self.rng.choice(DISORDER)](turns[-1], self.rng)
        return (made, 0) if made != turns[-1] else (made, 1)

    def pairs(self, dialogues: list[texts.Turns]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` [B, T], ``words`` and ``masked`` [B, T], ``belongs`` [B]."""
        replies = [self.reply(turns) for turns in dialogues]
        rows = encode_contexts(self.tokenizer, [turns[:-1] for turns in dialogues], [text for text, _ in replies], LONGEST)  # fmt: skip
        batch = pad_inputs(rows, self.tokenizer.pad_token_id)
        belongs = torch.tensor([label for _, label in replies])
        words = batch["input_ids"]
        batch["input_ids"], is_masked = masked(words, self.ordinary, self.tokenizer.mask_token_id, self.generator)  # fmt: skip
        return batch | {"words": words, "masked": is_masked & (belongs == 1).unsqueeze(1), "belongs": belongs}

    def singles(self, some: list[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The same texts as this encoder reads them, and as its teacher does."""
        encoded = []
        for tokenizer in (self.tokenizer, self.teacher_tokenizer):
            encoded.append(pad_inputs(encode_texts(tokenizer, some, LONGEST), tokenizer.pad_token_id))
        return encoded[0], encoded[1]

    def batches(self, size: int) -> Iterator[tuple[dict, tuple[dict, dict]]]:
        """Pairs and single texts, without end."""
        while True:
            order = self.rng.sample(range(len(self.dialogues)), len(self.dialogues))
            for start in range(0, max(1, len(order) - size), size):
                some = [self.dialogues[index] for index in order[start : start + size]]
                yield self.pairs([turns for turns in some if len(turns) > 1]), self.singles([self.rng.choice(turns) for turns in some])  # fmt: skip


def losses(model: PretrainedEncoder, teacher: PreTrainedModel, batch: tuple[dict, tuple[dict, dict]]) -> dict[str, torch.Tensor]:  # fmt: skip
    """The three losses of a batch."""
    pairs, (mine, theirs) = batch
    output = model.encoder(**{key: pairs[key] for key in ("input_ids", "attention_mask", "token_type_ids")})
    is_masked = pairs["masked"]
    words = F.cross_entropy(
        model.words(output.last_hidden_state[is_masked]).float(), pairs["words"][is_masked]
    )
    belongs = F.cross_entropy(model.belongs(output.pooler_output).float(), pairs["belongs"])
    with torch.no_grad():
        goal = mean_states(teacher, theirs)
    distance = 1 - F.cosine_similarity(model.vectors(mine).float(), goal.float()).mean()
    return {"words": words, "belongs": belongs, "vectors": distance}


class Stream(torch.utils.data.IterableDataset):
    """Batches of a `Reader` per worker process, each with a seed of its own."""

    def __init__(self, make: Callable[[int], Reader], size: int):
        self.make, self.size = make, size

    def __iter__(self) -> Iterator:
        info = torch.utils.data.get_worker_info()
        return self.make(0 if info is None else info.id).batches(self.size)


def to(batch, device: torch.device):
    """A nest of dicts and tuples of tensors on a device."""
    if torch.is_tensor(batch):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to(value, device) for key, value in batch.items()}
    return tuple(to(part, device) for part in batch)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = common_options(__doc__, vocabulary=6144, layers=4, batch=1024, learning_rate=1e-3)
    options.add_argument("--teacher", required=True, help="sentence encoder, by folder or hub name")
    options.add_argument("--steps", type=int, default=4000, help="of --batch dialogues (%(default)s)")
    options.add_argument("--workers", type=int, default=6, help="processes that make batches (%(default)s)")
    return options


def main(argv: list[str] | None = None) -> int:
    """Pre-train; returns the exit status."""
    options = parser().parse_args(argv)
    with exclusive(options.out, "encoder", "name another --out"):
        return pretrain(options)


def pretrain(options: argparse.Namespace) -> int:
    """Pre-train into the options' folder; returns the exit status."""
    device = choose_device(options.device)
    torch.manual_seed(options.seed)
    ours, bundled = texts.written(options.text, "train"), texts.corpus("train")
    more = list(texts.further(options.further)) if options.further else []
    tokenizer = encoder_tokenizer((turn for turns in ours[:300_000] + bundled for turn in turns), options.vocabulary)  # fmt: skip
    teacher, teacher_tokenizer = load_encoder(options.teacher), load_tokenizer(options.teacher)
    teacher = teacher.to(device).eval().requires_grad_(False)
    model = PretrainedEncoder(configuration(options, tokenizer), teacher.config.hidden_size).to(device)

    def reader(number: int) -> Reader:
        return Reader(
            tokenizer,
            ours + bundled * options.corpus_times + more,
            teacher_tokenizer,
            options.seed * 1000 + number,
        )

    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # forked readers have none of the threads that it would wait for
    )
    loader = torch.utils.data.DataLoader(
        Stream(reader, options.batch), batch_size=None, num_workers=options.workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if options.workers else None,
    )  # fmt: skip
    dev = Reader(tokenizer, texts.corpus("dev"), teacher_tokenizer, 0)
    held_out = to([next(dev.batches(256)) for _ in range(4)], device)

    def evaluate() -> dict[str, float]:
        per_batch = [losses(model, teacher, batch) for batch in held_out]
        right = [
            (model.belongs(model.encoder(**{k: pairs[k] for k in ("input_ids", "attention_mask", "token_type_ids")}).pooler_output).argmax(-1) == pairs["belongs"]).float().mean()
            for pairs, _ in held_out
        ]  # fmt: skip
        means = {
            f"corpus_{key}": float(torch.stack([each[key].float() for each in per_batch]).mean())
            for key in per_batch[0]
        }
        return means | {"corpus_told_right": float(torch.stack(right).mean())}

    result = optimise(
        "encoder", model, (to(batch, device) for batch in loader), lambda batch: losses(model, teacher, batch),
        options.steps, options.learning_rate, device, evaluate, best="corpus_belongs",
    )  # fmt: skip
    save("encoder", model.encoder, tokenizer, options, {"dialogues": len(ours)}, result)
    return 0


if __name__ == "__main__":
    run_main(main)
