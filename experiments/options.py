"""Options as a grid gives them: lists crossed, values checked against the dataclasses that take them."""

import dataclasses
import itertools
import json
import math
import re
from typing import get_args

from common.errors import InputError
from common.options import parse_arguments, parser_of

PLACES = (
    "preset",
    "run",
    "outs",
    "schema",
    "overwrite",
    "output_dir",
    "seed",
    "data_seed",
    "help",
)  # the experiment's own business

MOST_CROSSED = (
    10_000  # combinations of a model's options; a mistake in a grid, long before they fill the memory
)


def crossed(options: dict) -> list[tuple[dict, dict]]:
    """All combinations of the list-valued options, as (options of one combination, those of them that were lists).

    Raises:
        InputError: for an empty list, with the option's name in front.
    """
    lists = {name: value for name, value in options.items() if isinstance(value, list)}
    for name, values in lists.items():
        if not values:
            raise InputError(f"{name}: an empty list has no value to try")
    if (combinations := math.prod(map(len, lists.values()))) > MOST_CROSSED:
        raise InputError(
            f"{', '.join(lists)}: {combinations} combinations; at most {MOST_CROSSED} are measured"
        )
    assignments = [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    return [(options | one, one) for one in assignments]


def words_of(options: dict) -> list[str]:
    """Options as words of a command line."""
    texts = {
        name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in options.items()
    }
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def parsed(
    types: tuple[type, ...], section: str, options: dict, words: list[str], allowed: tuple[str, ...] = ()
) -> tuple:
    """A training script's options as it would parse them itself: the preset's, then `words`, then `options`.

    Args:
        allowed: those of `PLACES` that may be given all the same.

    Raises:
        InputError: with the option's name in front where one is unknown or has a value that it does not take.
    """
    parser = parser_of(types)
    known = {action.dest for action in parser._actions} - (set(PLACES) - set(allowed))
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{name}: no such option of {section} (a grid says seeds, schema and places for all models at once)"
            )
        if value is None:
            raise InputError(
                f"{name}: expected a value, found null; leave the option out for the preset's value"
            )
        try:
            parser.parse_args(words_of({name: value}))
        except InputError as error:
            reason = re.sub(r"^argument [^:]*: ", "", str(error)).removesuffix(" (see --help)")
            raise InputError(f"{name}: {reason}") from None
    try:
        return parse_arguments(types, section, [*words, *words_of(options)], "")
    except (
        ValueError,
        TypeError,
    ) as error:  # InputError, and what TrainingArguments says of values that do not go together
        raise InputError(" ".join(str(error).split())) from None


def converted(options: dict, *types: type) -> dict:
    """Values as the dataclasses' fields want them: YAML's 10 for a text, its 1 or "1e-3" for a float.

    Raises:
        InputError: with the option's name in front, for an unknown one, a value of another type, or one that is not among its choices.
    """
    fields = {field.name: field for kind in types for field in dataclasses.fields(kind)}
    values = {}
    for name, value in options.items():
        if name not in fields or name in PLACES:
            raise InputError(
                f"{name}: no such option; there are {', '.join(sorted(set(fields) - set(PLACES)))}"
            )
        values[name] = _converted(fields[name], value)
    return values


def _converted(field: dataclasses.Field, value: object) -> object:
    if read := field.metadata.get("read"):
        try:
            return read(value)
        except InputError as error:
            raise InputError(f"{field.name}: {error}") from None
    kinds = get_args(field.type) or (field.type,)
    kind = next(known for known in (bool, int, float, str) if known in kinds)
    if value is None and type(None) in kinds:
        return None
    try:
        if isinstance(value, (list, dict)) or value is None or isinstance(value, bool) != (kind is bool):
            raise ValueError
        if kind is str:
            value = f"{value:g}" if isinstance(value, (int, float)) else value
        elif kind is int and float(value) != int(float(value)):
            raise ValueError
        else:
            value = kind(float(value)) if kind is not bool else value
    except (ValueError, OverflowError):
        raise InputError(f"{field.name}: expected {kind.__name__}, found {value!r}") from None
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise InputError(f"{field.name}: expected one of {', '.join(choices)}, found {value!r}")
    return value
