"""Dialogues: one row of a dialogue or context file, read and checked."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.errors import InputError
from common.jsonl import read_jsonl
from common.schema import Attribute, Schema
from dataset.formats import hint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A context that ends with a user turn, the reply to it (None: still to be written), and the reply's aspects."""

    id: str
    context: tuple[str, ...]  # user, reply, user, ..., user
    response: str | None
    target: dict[str, str]  # attribute -> aspect; empty where the row has no tag
    topic: str | None = None  # the row's optional "topic"; NLI pairs take harder negatives from the same one

    @property
    def reply(self) -> str:
        """The response of a dialogue that has one, as those to train on have (`check_labelled`)."""
        assert self.response is not None
        return self.response


def _turns(row: dict, key: str, where: str) -> list[str]:
    turns = row.get(key)
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise InputError(f"{where}: {key!r} must be a list of strings, found {turns!r:.80}")
    for position, turn in enumerate(turns):
        if not turn.strip():
            kind = "user turn" if key == "input" else "reply"
            raise InputError(f"{where}: empty {kind} (number {position + 1} of {key!r})")
    return [" ".join(turn.split()) for turn in turns]


def _aspect(tag: object, attribute: Attribute, where: str) -> str:
    if isinstance(tag, str):
        if tag not in attribute.aspects:
            raise InputError(
                f"{where}: unknown aspect {tag!r:.80}; {attribute.name} has {list(attribute.aspects)}"
            )
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool):
        if not 0 <= tag < len(attribute.aspects):
            raise InputError(
                f"{where}: aspect index {tag!r:.40} out of range; {attribute.name} has {len(attribute.aspects)} aspects"
            )
        return attribute.aspects[tag]
    raise InputError(f"{where}: a tag is an aspect's name or index, found {tag!r:.80}")


def parse_tag(tag: object, schema: Schema, attribute: Attribute | None, where: str) -> dict[str, str]:
    """A row's ``tag`` as a target.

    Args:
        tag: an aspect's name or index, a list of them in the schema's order (null: not named), or None.
        attribute: the attribute that the file is labelled for; None where the tag itself must tell.

    Raises:
        InputError: unknown name, index out of range, wrong number of tags, or an index without an attribute.
    """
    if tag is None:
        return {}
    if isinstance(tag, list):
        if len(tag) != len(schema.attributes):
            raise InputError(
                f"{where}: {len(tag)} tags; the schema has {len(schema.attributes)} attributes ({schema.names})"
            )
        pairs = zip(schema.attributes, tag)
        return {named.name: _aspect(value, named, where) for named, value in pairs if value is not None}
    if attribute is None:
        if not isinstance(tag, str):
            raise InputError(
                f"{where}: tag {tag!r:.80} is an index, but the file belongs to no single attribute; use aspect names"
            )
        try:
            attribute = schema.attribute_of(tag)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return {attribute.name: _aspect(tag, attribute, where)}


_targets: dict[tuple, dict[str, str]] = {}


def shared(target: dict[str, str]) -> dict[str, str]:
    """Equal targets as one and the same dict, which nobody changes: a million rows have few different ones."""
    return _targets.setdefault(tuple(target.items()), target)


def parse_dialogue(
    row: dict, schema: Schema, where: str, id: str, attribute: Attribute | None = None
) -> Dialogue:
    """One row of a dialogue file (as many replies as user turns) or a context file (one reply fewer).

    Raises:
        InputError: with `where` in front, for anything else.
    """
    try:
        users, replies = _turns(row, "input", where), _turns(row, "output", where)
    except InputError as error:
        raise InputError(f"{error}{hint(row, where)}") from None
    if not users or len(users) - len(replies) not in (0, 1):
        raise InputError(
            f"{where}: {len(users)} user turns in 'input' and {len(replies)} replies in 'output'; "
            "expected as many, or one reply fewer where the reply is to be written"
        )
    response = replies.pop() if len(replies) == len(users) else None
    context = (*tuple(turn for pair in zip(users, replies) for turn in pair), users[-1])
    topic = row.get("topic")
    target = shared(parse_tag(row.get("tag"), schema, attribute, where))
    return Dialogue(id, context, response, target, topic if isinstance(topic, str) else None)


def read_dialogues(
    path: Path,
    schema: Schema,
    attribute: Attribute | None = None,
    labelled: bool = False,
    limit: int | None = None,
) -> list[Dialogue]:
    """Read a dialogue or context file; a dialogue's id is its position among the file's rows, from 0.

    Args:
        attribute: the attribute that the file is labelled for (None: the tags tell).
        labelled: demand a reply and a tag in every row, as training does.
        limit: stop after that many rows.

    Raises:
        InputError: naming file and line.
    """
    dialogues: list[Dialogue] = []
    for where, row in read_jsonl(path):
        dialogue = parse_dialogue(row, schema, where, str(len(dialogues)), attribute)
        if labelled:
            check_labelled(dialogue, attribute, where)
        dialogues.append(dialogue)
        if limit is not None and len(dialogues) >= limit:
            break
    return dialogues


def check_labelled(dialogue: Dialogue, attribute: Attribute | None, where: str) -> None:
    """Raise `InputError` for a dialogue that nothing can be trained on: no reply, or no aspect of its file's attribute."""
    if dialogue.response is None:
        raise InputError(f"{where}: the last user turn has no reply; training needs one in every row")
    if not dialogue.target:
        raise InputError(f"{where}: no 'tag'; training needs an aspect in every row")
    if attribute is not None and attribute.name not in dialogue.target:
        raise InputError(
            f"{where}: the tag names no aspect of {attribute.name}, which this file trains; found {dialogue.target}"
        )


def every_nth(items: list[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spread; for labelled ones see `balanced`."""
    if limit is None or limit >= len(items):
        return items
    return [items[position * len(items) // limit] for position in range(limit)]


def balanced(items: list[T], limit: int | None, label: Callable[[T], Hashable]) -> list[T]:
    """At most `limit` items in their order, the same number of every label, each label's evenly spread.

    Every nth row of a file whose labels alternate would be of one label alone. A label with fewer rows gives all it has.

    Args:
        label: of an item. With fewer places than labels, the first labels get one item each.
    """
    if limit is None or limit >= len(items):
        return items
    places: dict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        places[label(item)].append(position)
    share = 0
    while sum(min(len(positions), share + 1) for positions in places.values()) <= limit:
        share += 1
    kept = (
        [every_nth(positions, min(len(positions), share)) for positions in places.values()]
        if share
        else [positions[:1] for positions in places.values()][:limit]
    )
    return [items[position] for position in sorted(position for positions in kept for position in positions)]


def without_targets(dialogues: list[Dialogue], targets: list[dict[str, str]]) -> list[Dialogue]:
    """Those that do not have all the aspects of one of the targets: what is left where combinations are held out."""
    return [d for d in dialogues if not any(target.items() <= d.target.items() for target in targets)]


def read_attribute_dialogues(
    schema: Schema, split: str, limit: int | None = None
) -> dict[str, list[Dialogue]]:
    """All dialogues of a split (``train``, ``dev``, ``test``) by attribute name; `limit` applies to each attribute, as in `balanced`.

    Raises:
        InputError: for an attribute without that file, or a mistake in it.
    """
    key = {"train": "dialogues", "dev": "dev_dialogues", "test": "test_dialogues"}[split]
    by_attribute = {}
    for attribute in schema.attributes:
        path = getattr(attribute, key)
        if path is None:
            raise InputError(f"{schema.path}: attribute {attribute.name!r} has no {key!r}")
        dialogues = read_dialogues(schema.existing(path), schema, attribute, labelled=True)
        by_attribute[attribute.name] = balanced(
            dialogues,
            limit,
            lambda dialogue: dialogue.target[attribute.name],  # noqa: B023
        )
    return by_attribute
