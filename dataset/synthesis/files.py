"""From kept dialogues to training files: rows per persona, split by topic, joined over personas."""

import hashlib
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_json, write_jsonl
from common.schema import Attribute, Schema
from common.shapes import Fields, Items, misfit
from dataset.schema_writer import write_schema
from dataset.synthesis.outcome import Outcome
from dataset.synthesis.tasks import Persona

KEPT = Fields({"input": Items(str), "output": Items(str), "topic": str}, ("input", "output", "topic"))
MADE = "made.json"  # hashes of the files made here, by which a file that somebody has edited is known


def is_dev(topic: str, share: float) -> bool:
    """Whether a topic belongs to dev; decided by its name alone, so that all aspects and all runs agree."""
    return int(hashlib.sha256(topic.encode()).hexdigest()[:8], 16) / 16**8 < share


def rows_of(outcome: Outcome, persona: Persona, schema: Schema) -> dict:
    """A kept dialogue as a row of a dialogue file: tagged by name, or by a list for several attributes."""
    assert outcome.dialogue is not None  # it was kept
    several = len(persona.target) > 1
    tag = [persona.target.get(name) for name in schema.names] if several else persona.aspects[0]
    return {
        "input": outcome.dialogue.users,
        "output": outcome.dialogue.replies,
        "tag": tag,
        "topic": outcome.task.topic,
    }


class Output:
    """The folder that a user trains from.

    ``kept/<persona>.jsonl`` holds each persona's dialogues; the training files are made of all of them, again at every
    run, so that several aspects can be collected one after another.

    Args:
        dev_share: share of the topics that goes into the dev files.
        overwrite: replace files that were not made here, or were edited since.

    Raises:
        InputError: where such a file is in the way and `overwrite` is not given.
    """

    def __init__(self, folder: Path, schema: Schema, dev_share: float, overwrite: bool):
        self.folder, self.schema, self.dev_share = folder, schema, dev_share
        self.made: dict[str, str | None] = read_json(folder / MADE) or {}
        if not overwrite:
            for name in [*self.names(), "schema.py"]:
                path = folder / name
                if path.is_file() and self.made.get(name) != digest(path):
                    raise InputError(
                        f"{path} was not made by this command, or was edited since; --overwrite replaces it, or name another --output-dir"
                    )

    def names(self) -> list[str]:
        """All training files that can come out, by name."""
        kinds = [
            f"{prefix}{kind}_{a.name}.jsonl"
            for a in self.schema.attributes
            for prefix in ("", "dev_")
            for kind in ("dialogue", "text")
        ]
        return [*kinds, "test.jsonl"]

    def write(self, persona: Persona, kept: list[Outcome]) -> list[str]:
        """Write a persona's dialogues and make the training files again; returns a line for every file written."""
        write_jsonl(
            self.folder / "kept" / f"{persona.name}.jsonl",
            [rows_of(outcome, persona, self.schema) for outcome in kept],
        )
        rows = [
            _kept_row(row, where)
            for path in sorted((self.folder / "kept").glob("*.jsonl"))
            if path.stat().st_size
            for where, row in read_jsonl(path)
        ]
        files: dict[str, list[dict]] = {}
        attributes = []
        for attribute in self.schema.attributes:
            entry = self._attribute_files(
                attribute, [row for row in rows if row["tag"] in attribute.aspects], files
            )
            if entry:
                attributes.append(entry)
        if several := [row for row in rows if isinstance(row["tag"], list)]:
            files["test.jsonl"] = several
        for name, content in files.items():
            write_jsonl(self.folder / name, content)
        for name in (set(self.made) & set(self.names())) - set(files):
            (self.folder / name).unlink(missing_ok=True)
        if attributes:
            complete = [
                a["name"] for a in attributes
            ] == self.schema.names  # tags in test.jsonl name all attributes
            write_schema(
                self.folder / "schema.py",
                attributes,
                {"TEST": "test.jsonl" if several and complete else None},
                "Collected dialogues.",
            )
            files["schema.py"] = []
        self.made = {name: digest(self.folder / name) for name in files}
        write_json(self.folder / MADE, self.made)
        return [
            f"{self.folder / name}: {len(content)} rows"
            for name, content in files.items()
            if name != "schema.py"
        ]

    def _attribute_files(
        self, attribute: Attribute, rows: list[dict], files: dict[str, list[dict]]
    ) -> dict | None:
        """Put an attribute's dialogue and text rows into `files`; returns its entry for the schema."""
        if not rows:
            return None
        entry: dict[str, Any] = {"name": attribute.name, "aspects": list(attribute.aspects)}
        held = {row["topic"] for row in rows if is_dev(row["topic"], self.dev_share)}
        if not held and self.dev_share:  # few topics: the one nearest to the share
            held = {
                min(
                    (row["topic"] for row in rows),
                    key=lambda topic: hashlib.sha256(topic.encode()).hexdigest(),
                )
            }
        for prefix, split_rows in (
            ("", [r for r in rows if r["topic"] not in held]),
            ("dev_", [r for r in rows if r["topic"] in held]),
        ):
            if split_rows:
                texts = [
                    {"text": reply, "label": row["tag"], "topic": row["topic"]}
                    for row in split_rows
                    for reply in row["output"]
                ]
                for kind, content in (("dialogue", split_rows), ("text", texts)):
                    name = f"{prefix}{kind}_{attribute.name}.jsonl"
                    files[name] = content
                    entry[f"{prefix}{kind}s"] = name
        if attribute.descriptions:
            entry["descriptions"] = attribute.descriptions
        return entry


def _kept_row(row: dict, where: str) -> dict:
    """A row of ``kept/``, which somebody may have edited; raises `InputError`."""
    tag = row.get("tag")
    wrong = misfit(row, KEPT) or (
        None
        if isinstance(tag, (str, list))
        else f"'tag': expected an aspect or a list of them, found {tag!r:.40}"
    )
    if wrong:
        raise InputError(f"{where}: {wrong}")
    return row


def digest(path: Path) -> str | None:
    """A file's SHA-256; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def rejects(outcomes: list[Outcome]) -> list[dict]:
    """What was not kept and why, with the last answer's text."""
    return [
        {
            "topic": o.task.topic,
            "number": o.task.number,
            "aspects": o.task.persona.aspects,
            "reason": o.reason,
            "answer": o.last.text if o.last else "",
        }
        for o in outcomes
        if o.dialogue is None and o.next_attempt is None
    ]
