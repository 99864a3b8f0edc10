"""Check a schema's data: format, balance, duplicates, leakage, and how recognisable the aspects are. bash scripts/check_data.sh

Format mistakes, aspects without rows and leakage from training into dev or test are errors (exit status 1); everything
else is a warning (exit status 1 with --strict).
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # python scripts/check_data.py works, as -m does

import argparse
import dataclasses
import json

from common.entry import Parser, run_main
from common.options import within
from common.schema import Schema, load_schema
from dataset.checking import Collection, Limits, check, labelled_texts, read_collections

DESCRIPTIONS = {
    "similarity": "word 3-gram Jaccard similarity above which texts are near duplicates",
    "leakage": "share of dev or test rows seen in training above which it is an error",
    "balance": "rows of the most frequent aspect over those of the rarest",
    "length_ratio": "mean reply length of the longest aspect over the shortest",
    "audible": "bag-of-words accuracy below which the aspects are hard to recognise",
    "obvious": "bag-of-words accuracy above which they are too easy",
    "few_words": "the same, for the ten most telling words alone",
    "precision": "a give-away word has at least this precision",
    "recall": "and stands in at least this share of its aspect's replies",
    "distinct2": "least distinct-2 of the training replies",
    "sentence": "how often a sentence may occur in training replies",
}


def parser() -> argparse.ArgumentParser:
    """The options: one for every limit, with its default."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--schema", help="schema file (default: the repository's schema.py)")
    options.add_argument(
        "--run", help="a run's folder, outs/<run>: its trained classifiers classify the dev replies too"
    )
    options.add_argument(
        "--json", action="store_true", help="print the whole report as JSON, with every pair of duplicates"
    )
    options.add_argument("--strict", action="store_true", help="warnings count as errors")
    limits = options.add_argument_group("limits")
    for field in dataclasses.fields(Limits):
        name = "--" + field.name.replace("_", "-")
        limits.add_argument(
            name,
            type=field.type,
            default=field.default,
            help=f"{DESCRIPTIONS[field.name]} (default: {field.default})",
        )
    return options


def add_text_metrics(report: dict, collections: list[Collection], limits: Limits) -> None:
    """distinct-2 of all training replies, by the same function that scores generated ones."""
    from scoring.text_metrics import distinct

    sources = [c for c in collections if c.source.split == "train" and c.source.kind == "dialogues"]
    report["distinct2"] = distinct([item.reply for c in sources for item in c.items], 2)
    if report["distinct2"] is not None and report["distinct2"] < limits.distinct2:
        report["warnings"].append(
            f"distinct-2 of the training replies is {report['distinct2']:.2f}; they repeat themselves"
        )


def add_classifiers(report: dict, schema: Schema, collections: list[Collection], run: Path) -> None:
    """Dev and test accuracy of a run's trained text classifiers."""
    import torch

    from scoring.evaluators import Evaluator

    for attribute in schema.attributes:
        evaluator = Evaluator.load(
            run / "classifier" / attribute.name,
            attribute.name,
            torch.device("cpu"),
            {},
            list(attribute.aspects),
        )
        accuracies = {}
        for split in ("dev", "test"):
            texts, labels = labelled_texts(attribute, collections, split)
            right = (evaluator.score_texts(texts).argmax(axis=1) == labels).mean() if texts else None
            accuracies[split] = None if right is None else float(right)
        report["attributes"][attribute.name]["classifier"] = accuracies


def number(value: float | None, form: str = "{:.2f}") -> str:
    """A number, or a dash for what could not be computed."""
    return "-" if value is None else form.format(value)


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up on the terminal too."""
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths))
        for row in [heading, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(f"| {line} |" for line in lines)


def per_aspect(counts: dict[str, int]) -> str:
    """``plain 12, lyrical 12``; one number where many combinations have the same."""
    if len(counts) > 4 and len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} in each of {len(counts)}"
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def some(words: list[str], most: int = 5) -> str:
    """The first words of a list and how many more there are."""
    more = f" and {len(words) - most} more" if words[most:] else ""
    return ", ".join(words[:most]) + more or "none"


def tables(report: dict) -> str:
    """The report for people: three tables, then what is wrong."""
    files = [
        [
            f["file"],
            f["split"],
            str(f["rows"]),
            per_aspect(f["aspects"]),
            number(f["turns"]),
            str(f["topics"] or "-"),
        ]
        for f in report["files"]
    ]
    attributes = []
    for name, a in report["attributes"].items():
        words = ", ".join(
            f"{aspect} {mean:.1f} ({low:.0f}-{high:.0f})" for aspect, (mean, low, high) in a["words"].items()
        )
        bag = " / ".join(number(a["bag_of_words"][split]) for split in ("dev", "test"))
        accuracies = " / ".join(number(a.get("classifier", {}).get(split)) for split in ("dev", "test"))
        given = some([w["word"] for w in a["give_away"]])
        attributes.append(
            [name, words, number(a["length_ratio"]), bag, number(a["few_words"]), accuracies, given]
        )
    pairs = ("train-dev", "train-test", "dev-test")
    leaks = []
    for unit, d in report["duplicates"].items():
        repeats = [str(d["exact"]), str(d["near"])] if unit == "reply" else ["-", "-"]
        leaks.append([unit, *repeats, *(str(d["leaks"].get(pair, {}).get("rows", 0)) for pair in pairs)])
    lines = [
        markdown(["file", "split", "rows", "by aspect", "user turns", "topics"], files),
        "",
        markdown(
            [
                "attribute",
                "reply words: mean (5-95 %)",
                "ratio",
                "bag of words dev / test",
                "10 words",
                "classifier dev / test",
                "give-away words",
            ],
            attributes,
        ),
        "",
        markdown(
            [
                "unit",
                "repeated in a file",
                "nearly",
                *(f"{pair.split('-')[1]} rows also in {pair.split('-')[0]}" for pair in pairs),
            ],
            leaks,
        ),
        "",
        f"distinct-2 of the training replies: {number(report['distinct2'])}; sentences that recur too often: {len(report['sentences'])}",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Check and print; returns 1 where there are errors."""
    options = parser().parse_args(argv)
    schema = load_schema(options.schema)
    limits = Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})
    within("--similarity", limits.similarity, 0 < limits.similarity < 1, "between 0 and 1")
    errors: list[str] = []
    collections = read_collections(schema, errors)
    report = check(schema, collections, errors, limits)
    add_text_metrics(report, collections, limits)
    if options.run:
        add_classifiers(report, schema, collections, Path(options.run))
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(tables(report))
        for kind in ("errors", "warnings"):
            for message in report[kind]:
                print(f"{kind[:-1]}: {message}")
        print(f"{len(report['errors'])} errors, {len(report['warnings'])} warnings")
    return int(bool(report["errors"] or (options.strict and report["warnings"])))


if __name__ == "__main__":
    run_main(main)
