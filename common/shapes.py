"""What a JSON value must be like to be used: types by key, checked before anything reaches into them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

Shape = Union[type, "Fields", "Values", "Items", "Maybe", "Number", "Checked"]
NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Fields:
    """An object whose keys have these shapes.

    Attributes:
        needed: keys that must be there, and not null.
        others: shape of the keys that are not known; None: anything.
    """

    known: Mapping[str, Shape]
    needed: tuple[str, ...] = ()
    others: Shape | None = None


@dataclass(frozen=True)
class Values:
    """An object with any keys, all of whose values have one shape."""

    shape: Shape


@dataclass(frozen=True)
class Items:
    """A list whose items have one shape.

    Attributes:
        length: how many there must be; None: any number.
    """

    shape: Shape
    length: int | None = None


@dataclass(frozen=True)
class Maybe:
    """Null, or a value of a shape. Null stands for a text or a number that is unknown anyway, not for an object or a list."""

    shape: Shape


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Checked:
    """A value of a shape that a function finds nothing wrong with; it returns what was expected, or None."""

    shape: Shape
    wrong: Callable[[Any], str | None]


def misfit(value: object, shape: Shape, place: str = "") -> str | None:
    """What is wrong with a value, ``'run.seed': expected a number, found list``; None where it fits.

    `object` is the shape of anything.
    """
    if shape is object:
        return None
    if isinstance(shape, Maybe):
        return None if value is None else misfit(value, shape.shape, place)
    if value is None and isinstance(shape, (type, Number)):
        return None
    if isinstance(shape, Checked):
        return misfit(value, shape.shape, place) or _line(place, shape.wrong(value), value)
    if isinstance(shape, Number):
        return _line(place, _not_a_number(value, shape), value)
    if isinstance(shape, (Fields, Values)):
        return (
            _line(place, NAMES[dict], value)
            if not isinstance(value, dict)
            else _of_object(value, shape, place)
        )
    if isinstance(shape, Items):
        if not isinstance(value, list) or shape.length not in (None, len(value)):
            return _line(place, NAMES[list] + (f" of {shape.length}" if shape.length else ""), value)
        inner = (_of_many(item, shape.shape, f"{place}[{number}]") for number, item in enumerate(value))
        return next(filter(None, inner), None)
    fits = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    return None if fits else _line(place, NAMES[shape], value)


def _of_object(value: dict, shape: Fields | Values, place: str) -> str | None:
    if isinstance(shape, Fields):
        for key in shape.needed:
            if value.get(key) is None:
                return f"{place!r} has no {key!r}" if place else f"no {key!r} in it"
    for key, inner in value.items():
        where = f"{place}.{key:.40}" if place else f"{key:.40}"
        if isinstance(shape, Values):
            wrong = _of_many(inner, shape.shape, where)
        else:
            own = shape.known.get(key, shape.others)
            wrong = None if own is None else misfit(inner, own, where)
        if wrong:
            return wrong
    return None


def _of_many(value: object, shape: Shape, place: str) -> str | None:
    """The same for one of many; a text among texts is not null."""
    return _line(place, NAMES[str], value) if value is None and shape is str else misfit(value, shape, place)


def _not_a_number(value: object, shape: Number) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number"
    if shape.least <= value <= shape.most and abs(value) < 1e300:
        return None
    if math.isfinite(shape.least) and math.isfinite(shape.most):
        return f"a number from {shape.least:g} to {shape.most:g}"
    return f"a number of at least {shape.least:g}" if math.isfinite(shape.least) else "a finite number"


def _line(place: str, expected: str | None, value: object) -> str | None:
    if expected is None:
        return None
    shown = f"{value!r:.40}" if isinstance(value, (str, float)) else type(value).__name__
    return (
        f"{place!r}: expected {expected}, found {shown}" if place else f"expected {expected}, found {shown}"
    )


def first_not_finite(value: object, place: str = "") -> str | None:
    """Where in a value a number is NaN or infinite, ``'a.b': expected a finite number, found nan``; None where none is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else _line(place, "a finite number", value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = (first_not_finite(one, f"{place}.{key}" if place else str(key)) for key, one in pairs)
    return next(filter(None, inner), None)


def too_much(value: object, deepest: int, most: int | None = None) -> str | None:
    """Why a value is more than any file of ours holds; None where it is not.

    Args:
        deepest: how many objects and lists may stand in one another.
        most: how many values it may hold in all, each counted as often as it is referred to.
    """
    level, count = [value], 0
    for _ in range(deepest + 1):
        below: list = []
        for one in level:
            if isinstance(one, (dict, list)):
                below += one.values() if isinstance(one, dict) else one
            if most is not None and count + len(below) > most:
                return f"over {most} values"
        level, count = below, count + len(below)
        if not level:
            return None
    return "brackets nested too deep"
