"""Train the coherence (NLI) model that says whether a reply fits its context. ``bash train_nli.sh``"""

import dataclasses
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments, set_seed

from common.devices import choose_device
from common.errors import InputError
from common.options import CommonArguments, at_least, within
from common.processes import by_first
from common.provenance import relative
from common.schema import Schema, load_schema
from dataset.compact import compact_dataset
from dataset.dialogues import Dialogue, balanced, every_nth, read_attribute_dialogues
from dataset.encoding import encode_contexts
from dataset.nli import LABEL_NAMES, Pair, make_pairs, read_nli
from model.bases import SCRATCH
from scoring.audit import audit_coherence, print_audit
from scoring.evaluators import Evaluator, new_classifier, reads_exact_match
from training.evaluators import EvaluatorArguments, accuracy_or_why_not, train_evaluator
from training.inputs import Inputs, compared_settings, dialogue_files
from training.stage import Stage

VERSION = 1  # of this stage's code; raise it where the same options and data come out otherwise


@dataclass(frozen=True)
class NliArguments:
    """Options of the pairs."""

    pair_rounds: int = field(
        default=6, metadata={"help": "pairs made from dialogues: rounds of one true and one wrong reply each"}
    )
    corrupt_share: float = field(
        default=0.3,
        metadata={
            "help": "with an NLI file: corrupted replies added to its pairs, as a share of its coherent ones"
        },
    )

    def __post_init__(self):
        at_least(1, self, "pair_rounds")
        within("corrupt_share", self.corrupt_share, 0 <= self.corrupt_share < math.inf, "of 0 or more")


def all_dialogues(schema: Schema, split: str, limit: int | None) -> list[Dialogue]:
    """The dialogues of every attribute, one after the other."""
    return [
        dialogue
        for dialogues in read_attribute_dialogues(schema, split, limit).values()
        for dialogue in dialogues
    ]


def load_pairs(
    schema: Schema, split: str, rounds: int, corrupt_share: float, limit: int | None, seed: int
) -> list[Pair]:
    """The pairs of an NLI file with corrupted replies added, or pairs made from the dialogues.

    Where there is a training file without a dev file, every tenth of its contexts is held out for dev.

    Raises:
        InputError: for a mistake in a file, or a dev file without a training file.
    """
    if schema.nli is None:
        if schema.dev_nli is not None:
            raise InputError(
                f"{schema.path}: DEV_NLI without NLI; give both, or neither to make pairs from the dialogues"
            )
        return make_pairs(all_dialogues(schema, split, limit), rounds if split == "train" else 2, seed)
    if schema.dev_nli is None:
        pairs = [
            pair for pair in read_nli(schema.existing(schema.nli)) if _held_out(pair) == (split == "dev")
        ]
    else:
        pairs = list(read_nli(schema.existing(schema.nli if split == "train" else schema.dev_nli)))
    pairs = balanced(pairs, None if limit is None else 4 * limit, lambda pair: pair.label)
    coherent = [pair for pair in pairs if pair.label == 1]
    chosen = every_nth(coherent, int(corrupt_share * len(coherent)))
    dialogues = [Dialogue(str(i), pair.context, pair.response, {}) for i, pair in enumerate(chosen)]
    corrupted = [
        p
        for p in make_pairs(dialogues, 10, seed)
        if p.kind in ("repeated", "shuffled", "cut", "empty", "echo")
    ]
    return pairs + balanced(corrupted, len(chosen), lambda pair: pair.kind)


def _held_out(pair: Pair) -> bool:
    """Whether a pair of a file without dev file belongs to dev: a tenth, by context, so that no context is on both sides."""
    return zlib.crc32("\n".join(pair.context).encode()) % 10 == 0


OPTIONS = (CommonArguments, NliArguments, EvaluatorArguments, TrainingArguments)


def train(
    common: CommonArguments, pairs_of: NliArguments, options: EvaluatorArguments, training: TrainingArguments
) -> None:
    """Train into ``outs/<run>/nli`` and audit on degenerate replies; raises `InputError` for what cannot be used."""
    schema = load_schema(common.schema)
    pairs = {"the NLI pairs": schema.nli, "the dev NLI pairs": schema.dev_nli}
    reads = {**(pairs if schema.nli else dialogue_files(schema)), "the base encoder": common.encoder}
    settings = {"limit": common.limit, **dataclasses.asdict(pairs_of), **dataclasses.asdict(options)}
    stage = Stage(
        name="nli",
        folder=common.run_folder / "nli",
        inputs=Inputs.of(VERSION, settings | compared_settings(training), reads),
        record={"base": common.encoder if common.encoder == SCRATCH else relative(common.encoder)},
    )
    with stage.exclusive():
        _train(stage, schema, common, pairs_of, options, training)


def _train(
    stage: Stage,
    schema: Schema,
    common: CommonArguments,
    pairs_of: NliArguments,
    options: EvaluatorArguments,
    training: TrainingArguments,
) -> None:
    if (record := by_first(stage.finished)) and not common.overwrite:
        print(f"nli: already trained, {accuracy_or_why_not(record['metrics'], 'pairs')}", flush=True)
        print_audit(record["metrics"]["audit"])
        return
    made = (pairs_of.pair_rounds, pairs_of.corrupt_share, common.limit, training.seed)
    train_pairs, dev_pairs = load_pairs(schema, "train", *made), load_pairs(schema, "dev", *made)
    set_seed(training.seed)
    model, tokenizer = new_classifier(
        common.encoder,
        options.size,
        lambda: _texts(train_pairs),
        LABEL_NAMES,
        token_types=4,
        lora_rank=options.lora_rank,
    )
    encoded = (_encoded(pairs, model, tokenizer, options.max_length) for pairs in (train_pairs, dev_pairs))

    def audit(folder: Path) -> dict[str, float]:
        evaluator = Evaluator.load(folder, "nli", choose_device(), {}, LABEL_NAMES)
        return audit_coherence(
            evaluator,
            [Dialogue("", p.context, p.response, {}) for p in dev_pairs if p.label == 1],
            training.seed,
        )

    record = train_evaluator(model, tokenizer, *encoded, training, stage, options, common.limit, audit)
    metrics = record["metrics"]
    print(
        f"nli: {accuracy_or_why_not(metrics, 'pairs')}, {record['seconds']:.0f} s -> {stage.folder}",
        flush=True,
    )
    print_audit(metrics["audit"])


def _texts(pairs: list[Pair]) -> Iterable[str]:
    for pair in pairs:
        yield from (*pair.context, pair.response)


def _encoded(pairs: list[Pair], model, tokenizer, max_length: int) -> Dataset:
    exact_match = reads_exact_match(model)

    def rows_of(some: list[Pair]) -> list[dict]:
        contexts, responses = [pair.context for pair in some], [pair.response for pair in some]
        rows = encode_contexts(tokenizer, contexts, responses, max_length, exact_match)
        return [
            row | {"labels": pair.label, "length": len(row["input_ids"])} for row, pair in zip(rows, some)
        ]

    return compact_dataset(pairs, rows_of)
