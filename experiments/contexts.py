"""The contexts that replies are written for, and the real replies that stand beside them."""

from common.errors import InputError
from common.schema import Schema, target_name
from dataset.dialogues import Dialogue, balanced, every_nth, read_attribute_dialogues, read_dialogues
from experiments.grid import Grid
from generation.requests import Request


def split_of(contexts: str) -> str:
    """``dev:48`` -> ``dev``."""
    return contexts.partition(":")[0]


def requests_of(grid: Grid, schema: Schema) -> list[Request]:
    """The replies to write for every different context that the grid names: of every combination of aspects, or with
    ``targets: single`` one for each aspect of the attribute whose dialogue the context comes from (``test``: of every attribute).

    ``dev:N`` and ``test-dialogues:N`` cut N contexts from the dialogues of all attributes, an equal share of each (the
    first attributes take what does not divide), every nth of the different ones in file order; an attribute with fewer
    gives what it has. ``test`` is the schema's TEST. A request's id is the attribute's name and the row's number.

    Raises:
        InputError: for a file that is missing or has a mistake.
    """
    if grid.targets == "all":
        return [
            Request(id, context, target)
            for id, context in _contexts(grid, schema).items()
            for target in schema.combinations()
        ]
    return [
        Request(id, context, {attribute.name: aspect})
        for id, context in _contexts(grid, schema).items()
        for attribute in schema.attributes
        if split_of(grid.contexts) == "test" or id.rpartition("-")[0] == attribute.name
        for aspect in attribute.aspects
    ]


def _contexts(grid: Grid, schema: Schema) -> dict[str, tuple[str, ...]]:
    split, _, number = grid.contexts.partition(":")
    if split == "test":
        different = {dialogue.context: dialogue.id for dialogue in reversed(_test(schema))}
        return {id: context for context, id in reversed(different.items())}
    contexts: dict[str, tuple[str, ...]] = {}
    seen: set[tuple[str, ...]] = set()
    for position, (name, dialogues) in enumerate(read_attribute_dialogues(schema, _split(split)).items()):
        share = int(number) // len(schema.names) + (position < int(number) % len(schema.names))
        different = {d.context: f"{name}-{d.id}" for d in reversed(dialogues) if d.context not in seen}
        pairs = every_nth(list(reversed(different.items())), share) if share else []
        seen.update(context for context, _ in pairs)
        contexts |= {id: context for context, id in pairs}
    return contexts


def labelled(grid: Grid, schema: Schema) -> list[Dialogue]:
    """The real dialogues of the split that the contexts come from, at most the grid's `limit` of each file, each with its own aspects.

    Raises:
        InputError: where the split has no labelled replies.
    """
    split = split_of(grid.contexts)
    if split != "test":
        return [
            Dialogue(f"{name}-{d.id}", d.context, d.response, {name: d.target[name]})
            for name, dialogues in read_attribute_dialogues(schema, _split(split), grid.limit).items()
            for d in dialogues
        ]
    replied = [dialogue for dialogue in _test(schema) if dialogue.response is not None and dialogue.target]
    limited = balanced(replied, grid.limit, lambda dialogue: target_name(dialogue.target))
    if not limited:
        raise InputError(
            f"{schema.test} has no row with a reply and a tag, so there are no human replies to score"
        )
    return limited


def _split(name: str) -> str:
    return "test" if name == "test-dialogues" else name


def _test(schema: Schema) -> list[Dialogue]:
    if schema.test is None:
        raise InputError(f"{schema.path}: no TEST file")
    return read_dialogues(schema.existing(schema.test), schema)
