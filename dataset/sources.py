"""Every data file that a schema names, read as one kind of item, so that tools can treat all formats alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import parse_line, read_lines
from common.schema import Attribute, Schema
from dataset.dialogues import check_labelled, parse_dialogue, shared
from dataset.nli import parse_pair
from dataset.texts import parse_text


@dataclass(frozen=True)
class Source:
    """A data file: where it is, what its rows are, and what they are for.

    Attributes:
        kind: ``dialogues`` (labelled, with replies), ``test`` (several attributes, or contexts alone), ``texts``, ``nli``.
        attribute: the attribute that the file is labelled for; None for files that belong to no single one.
    """

    path: Path
    kind: str
    split: str
    attribute: Attribute | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One usable row of a source; a million of them are held at once, so the line itself is not kept.

    Attributes:
        where: ``file.jsonl:12``.
        context: turns joined by newlines; empty for a labelled text.
        turns: user turns of the context; 0 for a labelled text.
        reply: the response or the labelled text; None where the reply is still to be written.
        aspects: attribute -> aspect.
        label: an NLI row's label, else None.
    """

    where: str
    context: str
    turns: int
    reply: str | None
    aspects: dict[str, str]
    topic: str | None = None
    label: int | None = None


def sources_of(schema: Schema) -> list[Source]:
    """All files that the schema names, attribute by attribute, then test and NLI files."""
    sources = []
    for attribute in schema.attributes:
        for split, prefix in (("train", ""), ("dev", "dev_"), ("test", "test_")):
            for kind in ("dialogues", "texts"):
                if path := getattr(attribute, prefix + kind, None):
                    sources.append(Source(path, kind, split, attribute))
    others = (("test", "test", schema.test), ("nli", "train", schema.nli), ("nli", "dev", schema.dev_nli))
    return sources + [Source(path, kind, split) for kind, split, path in others if path]


def parse_item(line: bytes, where: str, source: Source, schema: Schema) -> Item:
    """Read one line of a source; raises `InputError` with `where` in front."""
    row = parse_line(line, where)
    if source.kind == "texts":
        assert source.attribute is not None  # as `sources_of` gives it
        text, label = parse_text(row, schema, source.attribute, where)
        return Item(where, "", 0, text, shared({source.attribute.name: source.attribute.aspects[label]}))
    if source.kind == "nli":
        pair = parse_pair(row, where)
        return Item(
            where,
            "\n".join(pair.context),
            (len(pair.context) + 1) // 2,
            pair.response,
            {},
            label=pair.label,
        )
    dialogue = parse_dialogue(row, schema, where, where, source.attribute)
    if source.kind == "dialogues":
        check_labelled(dialogue, source.attribute, where)
    turns = (len(dialogue.context) + 1) // 2
    return Item(where, "\n".join(dialogue.context), turns, dialogue.response, dialogue.target, dialogue.topic)


def read_items(source: Source, schema: Schema, mistakes: list[str]) -> Iterator[Item]:
    """Yield a source's usable rows; every other line's message is added to `mistakes`, a missing or empty file's too."""
    empty = True
    try:
        for where, line in read_lines(schema.existing(source.path)):
            empty = False
            try:
                yield parse_item(line, where, source, schema)
            except InputError as error:
                mistakes.append(str(error))
    except InputError as error:
        mistakes.append(str(error))
        return
    if empty:
        mistakes.append(f"{source.path}: the file has no rows")
