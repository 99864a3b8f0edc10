"""What the tiny bases read, as dialogues of turns: the teacher's, the corpus's training split, and text that somebody names."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from common.schema import Schema, load_schema
from dataset.dialogues import read_attribute_dialogues

Turns = tuple[str, ...]
SPEAKER = re.compile(r"^(User|Assistant): ")
LONGEST = 6  # turns of a further text's block


def written(folder: Path, split: str) -> list[Turns]:
    """The dialogues that `pretraining.cleaning` kept."""
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [tuple(json.loads(line)["turns"]) for line in lines]


def corpus(split: str, schema: Schema | None = None) -> list[Turns]:
    """The bundled dialogues of a split, without their labels; a dialogue in two attributes' files stands twice."""
    by_attribute = read_attribute_dialogues(schema or load_schema("schema.py"), split, None)
    return [(*each.context, each.response) for dialogues in by_attribute.values() for each in dialogues]


def further(path: Path) -> Iterator[Turns]:
    """Blocks of a text file (.gz or plain) between blank lines: ``User:`` and ``Assistant:`` lines in turn, else one turn of prose.

    A longer conversation becomes several, each ending with an assistant's turn.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for block in file.read().split("\n\n"):
            lines = [line for line in block.split("\n") if line.strip()]
            if not lines:
                continue
            if not SPEAKER.match(lines[0]):
                yield (" ".join(lines),)
                continue
            turns = [SPEAKER.sub("", line) for line in lines]
            for start in range(0, len(turns) - 1, LONGEST):
                part = turns[start : start + LONGEST]
                yield tuple(part[: len(part) - len(part) % 2] or part)


def size_of(dialogues: list[Turns]) -> int:
    """Bytes of all turns."""
    return sum(len(turn.encode()) for turns in dialogues for turn in turns)
