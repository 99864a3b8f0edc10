"""Labelled texts: what an attribute's classifier learns from."""

from pathlib import Path

from common.errors import InputError
from common.jsonl import read_jsonl
from common.schema import Attribute, Schema
from dataset.dialogues import balanced, parse_tag, read_dialogues
from dataset.formats import hint


def read_text_file(path: Path, schema: Schema, attribute: Attribute) -> list[tuple[str, int]]:
    """``{"text": ..., "label": aspect}`` rows (``labels`` accepted) as (text, aspect index).

    Raises:
        InputError: naming file and line.
    """
    return [parse_text(row, schema, attribute, where) for where, row in read_jsonl(path)]


def parse_text(row: dict, schema: Schema, attribute: Attribute, where: str) -> tuple[str, int]:
    """One row as (text, aspect index); raises `InputError` with `where` in front."""
    text, label = row.get("text"), row.get("label", row.get("labels"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: 'text' must be a non-empty string, found {text!r:.80}{hint(row, where)}")
    if label is None:
        raise InputError(f"{where}: no 'label'; {attribute.name} has {list(attribute.aspects)}")
    aspect = parse_tag(label, schema, attribute, where).get(attribute.name)
    if aspect is None:
        raise InputError(f"{where}: no aspect of {attribute.name} in 'label'; found {label!r:.80}")
    return " ".join(text.split()), attribute.index(aspect)


def read_texts(
    schema: Schema, attribute: Attribute, split: str, limit: int | None = None
) -> list[tuple[str, int]]:
    """The classifier's data: the attribute's text file, else the replies of its dialogues.

    Args:
        split: ``train`` or ``dev``.
        limit: at most that many, the same number of every aspect.

    Raises:
        InputError: where neither file is named, or for a mistake in it.
    """
    prefix = {"train": "", "dev": "dev_"}[split]
    path = getattr(attribute, prefix + "texts")
    if path is not None:
        return balanced(read_text_file(schema.existing(path), schema, attribute), limit, lambda text: text[1])
    path = getattr(attribute, prefix + "dialogues")
    if path is None:
        raise InputError(
            f"{schema.path}: attribute {attribute.name!r} has neither '{prefix}texts' nor '{prefix}dialogues'"
        )
    dialogues = read_dialogues(schema.existing(path), schema, attribute, labelled=True)
    return balanced(
        [(dialogue.reply, attribute.index(dialogue.target[attribute.name])) for dialogue in dialogues],
        limit,
        lambda text: text[1],
    )
