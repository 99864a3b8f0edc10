"""Bring dialogues and labelled texts in other formats into ours. bash scripts/import_data.sh chats.json --output mine.jsonl

Reads JSON Lines, JSON, CSV, TSV and Parquet, compressed or not; ShareGPT (conversations), messages, Alpaca, lists of
turns, prompt and response, text and label. Reports which key it read as what; rows that cannot be taken are named with file
and line and left out (exit status 1), or with --strict nothing is written. The source is only read.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # python scripts/import_data.py works, as -m does

import argparse
from collections import Counter

from common.entry import Parser, run_main
from common.errors import InputError
from common.jsonl import write_jsonl
from common.locks import exclusive
from common.schema import Attribute, Schema, load_schema
from dataset.dialogues import parse_dialogue
from dataset.formats import LABELS, OURS, TEXT, Taken, exchanges, first_of, taken
from dataset.tables import rows_of
from dataset.texts import parse_text

SHOWN = 10  # rows that cannot be taken
KEPT = ("topic", "personas")  # other keys that a row keeps


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="+", type=Path, help="what to bring in; several files become one")
    options.add_argument("--output", required=True, type=Path, help="the file to write, JSON Lines")
    options.add_argument(
        "--schema", help="schema whose aspects the labels are (default: the repository's schema.py)"
    )
    options.add_argument(
        "--attribute", help="the attribute that the rows are labelled for; default: the labels tell"
    )
    options.add_argument("--tag", help="label of all rows: an aspect")
    options.add_argument(
        "--tag-from",
        metavar="KEY",
        help=f"where a row's label stands (default: the first of {', '.join(LABELS)})",
    )
    options.add_argument(
        "--map",
        metavar="LABEL=ASPECT,...",
        default="",
        help="labels that are called otherwise: positive=optimistic,0=pessimistic",
    )
    options.add_argument(
        "--user-from", metavar="KEY", help="where the user's words stand, where that is not known"
    )
    options.add_argument("--reply-from", metavar="KEY", help="where the reply stands")
    options.add_argument(
        "--contexts",
        action="store_true",
        help="make a context file: the last user turn is still to be answered",
    )
    options.add_argument("--strict", action="store_true", help="write nothing where a row cannot be taken")
    options.add_argument("--overwrite", action="store_true", help="replace the output file")
    return options


class Labels:
    """Turns labels of other data into aspects of a schema.

    Raises:
        InputError: for an unknown attribute or aspect among the options.
    """

    def __init__(self, schema: Schema, attribute: str | None, tag: str | None, key: str | None, renamed: str):
        self.schema, self.attribute = schema, schema.attribute(attribute) if attribute else None
        self.key, self.tag = key, None if tag is None else self._aspect(tag, "--tag")
        self.renamed: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in renamed.split(","))):
            label, equals, aspect = pair.partition("=")
            if not equals:
                raise InputError(f"--map: expected label=aspect,..., found {pair!r}")
            self.renamed[label.strip().lower()] = self._aspect(aspect.strip(), "--map")
        self.used: Counter = Counter()

    def of(self, row: dict, where: str) -> str | list | None:
        """A row's tag; None where it has none."""
        if self.tag is not None:
            self.used[f"--tag {self.tag}"] += 1
            return self.tag
        if self.key is not None and self.key not in row:
            raise InputError(f"{where}: no {self.key!r}; found the keys {sorted(map(str, row))[:8]}")
        names = (*LABELS, self.attribute.name.lower()) if self.attribute else LABELS
        key = self.key or first_of(row, names)
        value = None if key is None else row[key]
        if value is None or value == "":
            return None
        self.used[repr(key)] += 1
        if isinstance(value, list):
            return [None if part is None else self._aspect(part, where) for part in value]
        return self._aspect(value, f"{where}: {key!r}")

    def _aspect(self, value: object, where: str) -> str:
        """The aspect that a label names, by name in any case or by index; raises `InputError` listing what there is."""
        word = str(value).strip()
        if word.lower() in getattr(self, "renamed", {}):
            return self.renamed[word.lower()]
        attributes: list[Attribute] = [self.attribute] if self.attribute else list(self.schema.attributes)
        for attribute in attributes:
            for aspect in attribute.aspects:
                if word.lower() == aspect.lower():
                    return aspect
        if (
            self.attribute
            and word.isascii()
            and word.isdigit()
            and int(word) < len(self.attribute.aspects)
            and not isinstance(value, bool)
        ):
            return self.attribute.aspects[int(word)]
        known = {attribute.name: list(attribute.aspects) for attribute in attributes}
        number = "; a number needs --attribute" if word.isdigit() and not self.attribute else ""
        raise InputError(
            f"{where}: {value!r:.40} is no aspect of {known}{number}; name what it is with --map {word[:20]}=<aspect>"
        )


class Import:
    """Rows taken so far, and what is to be said of them."""

    def __init__(self, options: argparse.Namespace, labels: Labels):
        self.options, self.labels = options, labels
        self.rows: list[dict] = []
        self.kind: str | None = None  # dialogues or texts
        self.mistakes: list[str] = []
        self.untagged = 0

    def take(self, row: dict, where: str, how: Counter, left_out: Counter) -> None:
        """Take a row in; raises `InputError` where it cannot be."""
        parsed = taken(row, where, self.options.user_from, self.options.reply_from)
        tag = self.labels.of(row, where)
        made, lost = (
            self._text(parsed, tag, where) if parsed.kind == TEXT else self._dialogue(parsed, tag, row, where)
        )
        kind = "texts" if parsed.kind == TEXT else "dialogues"
        if self.kind not in (None, kind):
            raise InputError(f"{where}: one of the {kind} among {self.kind}; bring them in apart")
        self.kind = kind
        self.rows.append(made)
        self.untagged += tag is None
        how[f"{'our own format' if parsed.kind == OURS else parsed.kind} ({parsed.how})"] += 1
        left_out.update({*parsed.left_out, *lost})

    def _text(self, parsed: Taken, tag: object, where: str) -> tuple[dict, list[str]]:
        made = {"text": parsed.text, "label": tag}
        attribute = self.labels.attribute or (
            self.labels.schema.attribute_of(tag) if isinstance(tag, str) else None
        )
        if tag is None or attribute is None:
            raise InputError(
                f"{where}: a text without a label; name where it stands with --tag-from, or give all the same with --tag"
            )
        parse_text(made, self.labels.schema, attribute, where)
        return made, []

    def _dialogue(self, parsed: Taken, tag: object, row: dict, where: str) -> tuple[dict, list[str]]:
        users, replies, lost = exchanges(parsed.turns, where, self.options.contexts)
        made = (
            {"input": users, "output": replies}
            | ({} if tag is None else {"tag": tag})
            | {key: row[key] for key in KEPT if row.get(key)}
        )
        parse_dialogue(made, self.labels.schema, where, "0", self.labels.attribute)
        return made, lost

    def read(self, path: Path) -> None:
        """Take a file's rows in, and report which formats they were read as."""
        before, wrong, how, left_out = len(self.rows), len(self.mistakes), Counter(), Counter()
        kind, rows = rows_of(path)
        try:
            for where, row in rows:
                try:
                    if isinstance(row, InputError):
                        raise row
                    self.take(row, where, how, left_out)
                except InputError as error:
                    self.mistakes.append(str(error))
        except InputError as error:  # the file itself cannot be read on
            self.mistakes.append(str(error))
        print(f"{path}: {kind}, {len(self.rows) - before} rows taken, {len(self.mistakes) - wrong} not")
        for words, count in how.items():
            print(f"  {count} x {words}")
        for words, count in left_out.items():
            print(f"  left out in {count} rows: {words}")


def main(argv: list[str] | None = None) -> int:
    """Read, report, write; returns 1 where rows could not be taken."""
    options = parser().parse_args(argv)
    if options.output.exists() and not options.overwrite:
        raise InputError(
            f"{options.output} is there already; name another --output, or replace it with --overwrite"
        )
    if any(
        path.exists() and options.output.exists() and path.samefile(options.output) for path in options.files
    ):
        raise InputError(f"{options.output} is what is to be read; name another --output")
    with exclusive(options.output, "import", "name another --output"):
        return bring_in(options)


def bring_in(options: argparse.Namespace) -> int:
    """Read, report, write; returns the exit status."""
    labels = Labels(
        load_schema(options.schema), options.attribute, options.tag, options.tag_from, options.map
    )
    done = Import(options, labels)
    for path in options.files:
        done.read(path)
    for key, count in labels.used.items():
        print(f"labels from {key}: {count} rows")
    for mistake in done.mistakes[:SHOWN]:
        print(f"not taken: {mistake}", file=sys.stderr)
    if len(done.mistakes) > SHOWN:
        print(f"not taken: {len(done.mistakes) - SHOWN} more", file=sys.stderr)
    if not done.rows or (done.mistakes and options.strict):
        raise InputError(
            f"nothing is written: {len(done.mistakes)} rows cannot be taken"
            + (f"; the first: {done.mistakes[0]}" if done.mistakes else "")
        )
    write_jsonl(options.output, done.rows)
    if done.untagged and not options.contexts:
        print(
            f"warning: {done.untagged} rows have no label; training needs one in every row: --tag <aspect>, or --tag-from <key>"
        )
    schema_key = {"texts": '"texts"', "dialogues": "TEST" if options.contexts else '"dialogues"'}[done.kind]
    print(
        f"{len(done.rows)} {done.kind} -> {options.output}; name it as {schema_key} in your schema, then: bash scripts/check_data.sh"
    )
    return int(bool(done.mistakes))


if __name__ == "__main__":
    run_main(main)
