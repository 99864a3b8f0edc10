"""Dials as text, for clients that can set nothing but a model's name or a system message: ``lyrical,optimistic*0.5``."""

import re
from dataclasses import dataclass, field

from common.errors import InputError
from common.schema import Schema

DIAL = re.compile(r"([A-Za-z0-9_-]+)(?:\s*\*\s*([0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6}))?\s*\Z")
LINE = re.compile(r"[ \t]*dials[ \t]*:(.*)", re.IGNORECASE)
HIGHEST = 1000.0  # times the run's own strength
MOST_LISTED = 64  # combinations that the list of models names


@dataclass(frozen=True)
class Dials:
    """What is asked for, and how strongly.

    Attributes:
        target: attribute -> aspect.
        factors: attribute -> times the run's own weight; 1 for those that it does not name.
    """

    target: dict[str, str] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)

    def __or__(self, other: "Dials") -> "Dials":
        """These, and where both name an attribute the other's."""
        own = {name: factor for name, factor in self.factors.items() if name not in other.target}
        return Dials(self.target | other.target, own | other.factors)

    def weights(self, run: dict[str, float]) -> dict[str, float]:
        """Attribute -> weight, from the run's own."""
        return {name: weight * self.factors.get(name, 1.0) for name, weight in run.items()}

    def text(self, schema: Schema) -> str:
        """The inverse of `read_dials`, in the schema's order."""
        parts = []
        for name in schema.names:
            if name in self.target:
                factor = self.factors.get(name, 1.0)
                parts.append(self.target[name] + ("" if factor == 1.0 else f"*{factor:g}"))
        return ",".join(parts)


def read_dials(text: str, schema: Schema) -> Dials:
    """Dials of a text such as ``lyrical, optimistic*0.5``; an empty one names none.

    Raises:
        InputError: for an unknown aspect, two of one attribute, or a factor that is none.
    """
    target: dict[str, str] = {}
    factors: dict[str, float] = {}
    for word in filter(None, (part.strip() for part in text.replace("+", ",").split(","))):
        if not (match := DIAL.match(word)):
            raise InputError(
                f"{word!r:.60} is no dial; expected an aspect, or one with a factor: lyrical*0.5"
            )
        aspect, factor = match.group(1), match.group(2)
        name = schema.attribute_of(aspect).name
        if name in target:
            raise InputError(f"{target[name]} and {aspect} are both of {name}; name one of them")
        target[name] = aspect
        if factor is not None:
            if float(factor) > HIGHEST:
                raise InputError(f"{word!r:.60}: a factor is at most {HIGHEST:g}")
            factors[name] = float(factor)
    return Dials(target, factors)


def dials_of_system(text: str, schema: Schema) -> tuple[Dials, str]:
    """The dials of a system message, and what it says besides.

    A line ``dials: lyrical, optimistic*0.5`` sets dials, and so does a message that is nothing but the names of aspects.

    Raises:
        InputError: for a line of dials that cannot be read.
    """
    dials, rest = Dials(), []
    for line in text.splitlines():
        if match := LINE.fullmatch(line):
            dials |= read_dials(match.group(1), schema)
        else:
            rest.append(line)
    remaining = "\n".join(rest).strip()
    words = [part.strip() for part in remaining.replace("+", ",").split(",")]
    aspects = {aspect for attribute in schema.attributes for aspect in attribute.aspects}
    if remaining and all((match := DIAL.match(word)) and match.group(1) in aspects for word in words):
        return dials | read_dials(remaining, schema), ""
    return dials, remaining


def split_model(model: str, run: str) -> str | None:
    """The text of the dials in a model's name, ``run:dials``; None for another model."""
    name, _, dials = model.partition(":")
    return dials if name == run else None


def listed_models(run: str, schema: Schema) -> list[str]:
    """Names for the list of models: the run, every aspect alone, and all combinations where they are not too many."""
    names = [run, *(f"{run}:{aspect}" for attribute in schema.attributes for aspect in attribute.aspects)]
    combinations = schema.combinations() if _count(schema) <= MOST_LISTED else []
    if len(schema.names) > 1:
        names += [f"{run}:{Dials(target).text(schema)}" for target in combinations]
    return names


def _count(schema: Schema) -> int:
    found = 1
    for attribute in schema.attributes:
        found *= len(attribute.aspects)
    return found
