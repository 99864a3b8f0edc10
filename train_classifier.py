"""Train the attribute classifiers that score replies. ``ATTR=languagestyle bash train_classifier.sh``"""

from scripts.entry import prepare_libraries, run_main

prepare_libraries()

import dataclasses  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402

from datasets import Dataset  # noqa: E402
from transformers import TrainingArguments, set_seed  # noqa: E402

from dataset.encoding import encode_texts  # noqa: E402
from dataset.texts import read_texts  # noqa: E402
from model.bases import SCRATCH  # noqa: E402
from schema import Attribute, Schema, load_schema  # noqa: E402
from scoring.evaluators import new_classifier  # noqa: E402
from scripts.arguments import CommonArguments, parse_arguments  # noqa: E402
from scripts.evaluator_training import EvaluatorArguments, accuracy_or_why_not, train_evaluator  # noqa: E402
from scripts.runs import fingerprint, relative  # noqa: E402
from scripts.training import Stage, compared_settings  # noqa: E402


@dataclass(frozen=True)
class AttributeArguments:
    """Which classifiers to train."""

    attribute: str | None = field(default=None, metadata={"help": "one attribute of the schema; default: all of them"})


def train_attribute(
    attribute: Attribute, schema: Schema, common: CommonArguments, options: EvaluatorArguments, training: TrainingArguments
) -> dict:
    """Train one attribute's classifier into ``outs/<run>/classifier/<attribute>`` and return its stage record."""
    files = [attribute.texts or attribute.dialogues, attribute.dev_texts or attribute.dev_dialogues]
    settings = {"aspects": attribute.aspects, "encoder": common.encoder, "limit": common.limit, **dataclasses.asdict(options)}
    stage = Stage(
        name=attribute.name,
        folder=common.run_folder / "classifier" / attribute.name,
        fingerprint=fingerprint(settings | compared_settings(training), files),
        record={"base": common.encoder if common.encoder == SCRATCH else relative(common.encoder)},
    )
    if (record := stage.finished()) and not common.overwrite:
        print(f"{attribute.name}: already trained, {accuracy_or_why_not(record['metrics'])}", flush=True)
        return record
    train, dev = (read_texts(schema, attribute, split, common.limit) for split in ("train", "dev"))
    set_seed(training.seed)
    model, tokenizer = new_classifier(common.encoder, options.size, lambda: (text for text, _ in train), list(attribute.aspects), lora_rank=options.lora_rank)

    def encoded(texts: list[tuple[str, int]]) -> Dataset:
        rows = encode_texts(tokenizer, [text for text, _ in texts], options.max_length)
        return Dataset.from_list([row | {"labels": label, "length": len(row["input_ids"])} for row, (_, label) in zip(rows, texts)])

    record = train_evaluator(model, tokenizer, encoded(train), encoded(dev), training, stage, options.precision)
    print(f"{attribute.name}: {accuracy_or_why_not(record['metrics'])}, {record['seconds']:.0f} s -> {stage.folder}", flush=True)
    return record


OPTIONS = (CommonArguments, AttributeArguments, EvaluatorArguments, TrainingArguments)


def main(argv: list[str] | None = None) -> int:
    """Train one or all classifiers; returns the exit status."""
    common, which, options, training = parse_arguments(OPTIONS, "classifier", argv, __doc__)
    schema = load_schema(common.schema)
    attributes = [schema.attribute(which.attribute)] if which.attribute else schema.attributes
    for attribute in attributes:
        train_attribute(attribute, schema, common, options, training)
    return 0


if __name__ == "__main__":
    run_main(main)
