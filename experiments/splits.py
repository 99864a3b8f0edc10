"""``held_out`` of a grid's model: a protocol's name or combinations, as the splits that its cells are measured on.

A model that learns from combinations is trained without those held out (`experiments.system.Kind.sees_combinations`). Every other
one has only seen single aspects; it is trained once, and its replies are divided in the same way: what its combinations differ in
by themselves, which is what a drop has to be compared with.
"""

from common.errors import InputError
from common.schema import Schema
from dataset.unseen import PROTOCOLS, held_out_names, splits_of

OPTION = "held_out"


def expanded(options: dict, schema: Schema) -> dict:
    """A model's options with the splits of its ``held_out`` in the place of a protocol's name; a list is crossed like any other.

    Raises:
        InputError: for what is neither a protocol nor a combination.
    """
    if OPTION not in options:
        return options
    given = options[OPTION]
    splits: list[str] = []
    for value in given if isinstance(given, list) else [given]:
        if isinstance(value, str) and value in PROTOCOLS:
            splits += [",".join(split.held_out) for split in _named(splits_of, value, schema)]
        elif isinstance(value, (str, list)):
            splits.append(",".join(held_out_names(value, schema)))
        else:
            raise InputError(
                f"{OPTION}: expected combinations or one of {', '.join(PROTOCOLS)}, found {value!r:.80}"
            )
    return options | {OPTION: list(dict.fromkeys(splits))}


def _named(function, *arguments):
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{OPTION}: {error}") from None
