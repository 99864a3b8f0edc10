"""Write a cleaned copy of a schema's data, with a log line for every row left out and why. bash scripts/clean_data.sh

The copy gets a schema.py of its own, so that SCHEMA=<folder>/schema.py trains on it; the source files are only read.
Rows go for these reasons: not readable; the reply too short or too long; the reply repeats an earlier one of its
aspect, or nearly; the reply or context stands in dev or test too (training rows only); the reply's aspect can hardly
be predicted in it (training and dev rows, with --min-probability).
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # python scripts/clean_data.py works, as -m does

import argparse
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from common.entry import Parser, run_main
from common.errors import InputError
from common.folders import appearing_whole
from common.jsonl import read_lines, write_jsonl
from common.locks import exclusive
from common.options import within
from common.schema import ATTRIBUTE_FILES, FILE_NAMES, Attribute, Schema, load_schema
from dataset.duplicates import exact_copies, similar_pairs
from dataset.schema_writer import write_schema
from dataset.separability import LabelledTexts, cross_fitted_probabilities, held_out_probabilities
from dataset.sources import Item, Source, parse_item, sources_of
from dataset.words import unspaced, within_words, words


@dataclass
class Copy:
    """A source and what is to become of its rows.

    Attributes:
        items: the rows that can be read.
        dropped: where -> (reason, detail).
    """

    source: Source
    items: list[Item]
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)

    def kept(self) -> list[Item]:
        """The rows that nothing has dropped so far."""
        return [item for item in self.items if item.where not in self.dropped]

    def drop(self, item: Item, reason: str, detail: str) -> None:
        """Leave a row out; its first reason counts."""
        self.dropped.setdefault(item.where, (reason, detail))


def read_copy(source: Source, schema: Schema) -> Copy:
    """All rows of a source; those that cannot be read are dropped at once."""
    copy = Copy(source, [])
    for where, line in tqdm(
        read_lines(schema.existing(source.path)),
        desc=source.path.name,
        unit=" rows",
        leave=False,
        disable=None,
    ):
        try:
            copy.items.append(parse_item(line, where, source, schema))
        except InputError as error:
            copy.dropped[where] = ("format", str(error).removeprefix(f"{where}: "))
    return copy


def drop_by_length(copies: list[Copy], shortest: int, longest: int) -> None:
    """Drop replies outside the limits (`dataset.words.within_words`); rows whose reply is still to be written stay."""
    for copy in copies:
        for item in copy.kept():
            if item.reply is not None and not within_words(item.reply, shortest, longest):
                unit = "words and characters" if unspaced(item.reply) else "words"
                copy.drop(
                    item, "length", f"{len(words(item.reply))} {unit}; {shortest} to {longest} words are kept"
                )


def drop_duplicates(copies: list[Copy], similarity: float) -> None:
    """Drop every reply that repeats, or nearly repeats, an earlier one with the same aspects in its file."""
    for copy in copies:
        items = [item for item in copy.kept() if item.reply]
        texts = [item.reply for item in items]
        pairs = [(before, after, 1.0) for after, before in exact_copies(texts).items()] + similar_pairs(
            texts, similarity
        )
        for before, after, value in pairs:
            if items[before].aspects == items[after].aspects and items[before].where not in copy.dropped:
                copy.drop(items[after], "duplicate", f"similarity {value:.2f} to {items[before].where}")


def drop_leaks(copies: list[Copy], similarity: float) -> None:
    """Drop training rows whose reply or context is also in dev or test, or nearly."""
    for unit in ("reply", "context"):
        rows = [(copy, item) for copy in copies for item in copy.kept() if getattr(item, unit)]
        rows.sort(
            key=lambda row: row[0].source.split == "train"
        )  # held-out rows first, so that each exact copy points at one
        texts = [getattr(item, unit) for _, item in rows]
        members: dict[int, list[int]] = {}
        for index, first in exact_copies(texts).items():
            members.setdefault(first, []).append(index)
        pairs = [(first, index, 1.0) for first, group in members.items() for index in group]
        for a, b, value in similar_pairs(texts, similarity):
            pairs += [(i, j, value) for i in [a, *members.get(a, [])] for j in [b, *members.get(b, [])]]
        for a, b, value in pairs:
            (copy, item), (other, held) = (
                (rows[a], rows[b]) if rows[a][0].source.split == "train" else (rows[b], rows[a])
            )
            if copy.source.split == "train" != other.source.split:
                copy.drop(
                    item,
                    "leak",
                    f"its {unit} is also in {other.source.split}, similarity {value:.2f} to {held.where}",
                )


def drop_inaudible(copies: list[Copy], attribute: Attribute, threshold: float, run: Path | None) -> None:
    """Drop training and dev rows whose reply is not recognised as its aspect.

    Args:
        threshold: least probability of the row's own aspect.
        run: a run's folder; its trained classifier gives the probabilities. None: a bag of words, trained on the training rows,
            and for a training row on the other four fifths of its file.

    Raises:
        InputError: where an aspect has too few training rows for that.
    """
    mine = [copy for copy in copies if copy.source.attribute == attribute and copy.source.split != "test"]
    rows = {id(copy): labelled(copy, attribute) for copy in mine}
    for copy in mine:
        texts, labels = rows[id(copy)]
        if not texts:
            continue
        if run is not None:
            probabilities = probabilities_by_run(attribute, run, texts)[range(len(labels)), labels]
        else:
            train = next(
                (c for c in mine if c.source.split == "train" and c.source.kind == copy.source.kind), copy
            )
            try:
                probabilities = (
                    cross_fitted_probabilities(texts, labels)
                    if train is copy
                    else held_out_probabilities(rows[id(train)], (texts, labels))
                )
            except ValueError as error:
                raise InputError(
                    f"{train.source.path}: too few rows to learn the aspects from ({error}); use a run's classifiers, --run"
                ) from None
        for item, probability in zip(copy.kept(), probabilities):
            if probability < threshold:
                copy.drop(
                    item,
                    "inaudible",
                    f"probability of {item.aspects[attribute.name]} {probability:.2f}, least {threshold}",
                )


def labelled(copy: Copy, attribute: Attribute) -> LabelledTexts:
    """The replies of a copy's rows, and their aspect indices."""
    return [item.reply for item in copy.kept()], [
        attribute.index(item.aspects[attribute.name]) for item in copy.kept()
    ]


def probabilities_by_run(attribute: Attribute, run: Path, texts: list[str]) -> np.ndarray:
    """A run's classifier's probabilities [texts, aspects]."""
    import torch

    from scoring.evaluators import Evaluator

    evaluator = Evaluator.load(
        run / "classifier" / attribute.name, attribute.name, torch.device("cpu"), {}, list(attribute.aspects)
    )
    return evaluator.score_texts(texts)


def copy_nli(source: Source, schema: Schema, path: Path) -> tuple[int, list[dict]]:
    """Copy the readable rows of an NLI file, each once, without holding it in memory; returns (rows kept, log rows)."""
    log, seen, kept = [], {}, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        for where, line in tqdm(
            read_lines(schema.existing(source.path)), desc=source.path.name, unit=" rows", disable=None
        ):
            try:
                item = parse_item(line, where, source, schema)
            except InputError as error:
                log.append(
                    {"row": where, "reason": "format", "detail": str(error).removeprefix(f"{where}: ")}
                )
                continue
            before = seen.setdefault(hash((item.context, item.reply, item.label)), where)
            if before != where:
                log.append({"row": where, "reason": "duplicate", "detail": f"the same as {before}"})
                continue
            out.write(line.rstrip(b"\r\n") + b"\n")
            kept += 1
    return kept, log


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--schema", help="schema file (default: the repository's schema.py)")
    options.add_argument(
        "--output-dir", required=True, help="new folder for the cleaned files, log.jsonl and schema.py"
    )
    options.add_argument("--min-words", type=int, default=3, help="shortest reply (default: 3)")
    options.add_argument("--max-words", type=int, default=80, help="longest reply (default: 80)")
    options.add_argument(
        "--similarity",
        type=float,
        default=0.6,
        help="3-gram Jaccard above which texts are near duplicates (default: 0.6)",
    )
    options.add_argument(
        "--min-probability",
        type=float,
        help="least probability of a reply's own aspect; default: not looked at",
    )
    options.add_argument(
        "--run",
        help="a run's folder, outs/<run>, whose classifiers give the probabilities; default: cross-fitted bags of words",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Clean and say how much is left; returns the exit status."""
    options = parser().parse_args(argv)
    within("--similarity", options.similarity, 0 < options.similarity < 1, "between 0 and 1")
    if not 0 <= options.min_words <= options.max_words:
        raise InputError(
            f"--min-words {options.min_words} and --max-words {options.max_words} leave no reply; the first may not be over the second"
        )
    if options.run and not (Path(options.run) / "classifier").is_dir():
        raise InputError(f"{options.run}: no classifier/ in it; expected a run's folder, outs/<run>")
    folder = Path(options.output_dir)
    with exclusive(folder, "cleaning", "name another --output-dir"):
        return clean(options, folder)


def clean(options: argparse.Namespace, folder: Path) -> int:
    """Clean into a folder of its own; returns the exit status."""
    schema = load_schema(options.schema)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder")
    sources = sources_of(schema)
    names = {source.path: source.path.name for source in sources}
    if len(set(names.values())) < len(names):
        raise InputError("two data files have the same name; the copies would overwrite each other")
    copies = [read_copy(source, schema) for source in sources if source.kind != "nli"]
    drop_by_length(copies, options.min_words, options.max_words)
    drop_duplicates(copies, options.similarity)
    drop_leaks(copies, options.similarity)
    if options.min_probability is not None:
        for attribute in schema.attributes:
            drop_inaudible(
                copies, attribute, options.min_probability, Path(options.run) if options.run else None
            )

    with appearing_whole(folder) as work:
        lost = write_copy(work, schema, sources, copies, names)
    print(f"{lost} rows left out, see {folder / 'log.jsonl'}")
    if empty := emptied(copies):
        print(f"warning: nothing is left of {', '.join(empty)}; the copy cannot be trained on")
        return 1
    print(f"train with SCHEMA={folder / 'schema.py'}")
    return 0


def write_copy(
    folder: Path, schema: Schema, sources: list[Source], copies: list[Copy], names: dict[Path, str]
) -> int:
    """Write the rows that are kept, the log and the schema; returns how many rows were left out."""
    log: list[dict] = []
    for copy in copies:
        kept = {item.where for item in copy.kept()}
        with open(folder / names[copy.source.path], "wb") as out:
            for where, line in read_lines(copy.source.path):
                if where in kept:
                    out.write(line.rstrip(b"\r\n") + b"\n")
        rows = [
            {"row": where, "reason": reason, "detail": detail}
            for where, (reason, detail) in copy.dropped.items()
        ]
        report(copy.source, len(kept), rows)
        log += rows
    for source in sources:
        if source.kind == "nli":
            kept_rows, rows = copy_nli(source, schema, folder / names[source.path])
            report(source, kept_rows, rows)
            log += rows
    write_jsonl(folder / "log.jsonl", log)
    attributes = []
    for a in schema.attributes:
        files = {key: names[path] for key in ATTRIBUTE_FILES if (path := getattr(a, key))}
        described = {"descriptions": a.descriptions} if a.descriptions else {}
        attributes.append({"name": a.name, "aspects": list(a.aspects), **files, **described})
    others = {key: names.get(getattr(schema, key.lower())) for key in FILE_NAMES}
    write_schema(
        folder / "schema.py", attributes, others, "Cleaned data; log.jsonl says what was left out and why."
    )
    return len(log)


def emptied(copies: list[Copy]) -> list[str]:
    """Aspects whose training file has no row of them left."""
    missing = []
    for copy in copies:
        if copy.source.attribute is not None and copy.source.split == "train":
            left = {item.aspects[copy.source.attribute.name] for item in copy.kept()}
            missing += [aspect for aspect in copy.source.attribute.aspects if aspect not in left]
    return missing


def report(source: Source, kept: int, dropped: list[dict]) -> None:
    """One line on a file."""
    reasons = ", ".join(
        f"{reason} {count}" for reason, count in Counter(row["reason"] for row in dropped).most_common()
    )
    print(f"{source.path.name}: {kept} kept, {len(dropped)} left out{f' ({reasons})' if reasons else ''}")


if __name__ == "__main__":
    run_main(main)
