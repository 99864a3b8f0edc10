"""Train the attribute classifiers that score replies. ``ATTR=languagestyle bash train_classifier.sh``"""

import dataclasses
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import TrainingArguments, set_seed

from common.options import CommonArguments
from common.processes import by_first
from common.provenance import relative
from common.schema import Attribute, Schema, load_schema
from dataset.compact import compact_dataset
from dataset.encoding import encode_texts
from dataset.texts import read_texts
from model.bases import SCRATCH
from scoring.evaluators import new_classifier
from training.evaluators import EvaluatorArguments, accuracy_or_why_not, train_evaluator
from training.inputs import Inputs, compared_settings
from training.stage import Stage

VERSION = 1  # of this stage's code; raise it where the same options and data come out otherwise


@dataclass(frozen=True)
class AttributeArguments:
    """Which classifiers to train."""

    attribute: str | None = field(
        default=None, metadata={"help": "one attribute of the schema; default: all of them"}
    )


def train_attribute(
    attribute: Attribute,
    schema: Schema,
    common: CommonArguments,
    options: EvaluatorArguments,
    training: TrainingArguments,
) -> dict:
    """Train one attribute's classifier into ``outs/<run>/classifier/<attribute>`` and return its stage record."""
    reads = {
        "the training texts": attribute.texts or attribute.dialogues,
        "the dev texts": attribute.dev_texts or attribute.dev_dialogues,
        "the base encoder": common.encoder,
    }
    settings = {"aspects": attribute.aspects, "limit": common.limit, **dataclasses.asdict(options)}
    stage = Stage(
        name=attribute.name,
        folder=common.run_folder / "classifier" / attribute.name,
        inputs=Inputs.of(VERSION, settings | compared_settings(training), reads),
        record={"base": common.encoder if common.encoder == SCRATCH else relative(common.encoder)},
    )
    with stage.exclusive():
        return _train(stage, attribute, schema, common, options, training)


def _train(
    stage: Stage,
    attribute: Attribute,
    schema: Schema,
    common: CommonArguments,
    options: EvaluatorArguments,
    training: TrainingArguments,
) -> dict:
    if (record := by_first(stage.finished)) and not common.overwrite:
        print(f"{attribute.name}: already trained, {accuracy_or_why_not(record['metrics'])}", flush=True)
        return record
    train, dev = (read_texts(schema, attribute, split, common.limit) for split in ("train", "dev"))
    set_seed(training.seed)
    model, tokenizer = new_classifier(
        common.encoder,
        options.size,
        lambda: (text for text, _ in train),
        list(attribute.aspects),
        lora_rank=options.lora_rank,
    )

    def rows_of(texts: list[tuple[str, int]]) -> list[dict]:
        rows = encode_texts(tokenizer, [text for text, _ in texts], options.max_length)
        return [
            row | {"labels": label, "length": len(row["input_ids"])} for row, (_, label) in zip(rows, texts)
        ]

    def encoded(texts: list[tuple[str, int]]) -> Dataset:
        return compact_dataset(texts, rows_of)

    record = train_evaluator(
        model, tokenizer, encoded(train), encoded(dev), training, stage, options, common.limit
    )
    print(
        f"{attribute.name}: {accuracy_or_why_not(record['metrics'])}, {record['seconds']:.0f} s -> {stage.folder}",
        flush=True,
    )
    return record


OPTIONS = (CommonArguments, AttributeArguments, EvaluatorArguments, TrainingArguments)


def train(
    common: CommonArguments,
    which: AttributeArguments,
    options: EvaluatorArguments,
    training: TrainingArguments,
) -> None:
    """Train one or all classifiers into ``outs/<run>/classifier/<attribute>``; raises `InputError` for what cannot be used."""
    schema = load_schema(common.schema)
    attributes = [schema.attribute(which.attribute)] if which.attribute else schema.attributes
    for attribute in attributes:
        train_attribute(attribute, schema, common, options, training)
