"""The strength dials w_k of the energy (`model.energy`): one number for all attributes, or a number by attribute."""

from typing import Any

from common.errors import InputError

STRONGEST = (
    1e5  # a thousand times what the demo needs; from 1e20 on latents overflow, or stay where they were
)
Weights = float | dict[str, float]
OTHERS = (
    "*"  # the attributes that a mapping does not name; without it they have 1. No attribute can be called so
)


def read_weights(given: Any) -> Weights:
    """Weights as a command line, a grid, a preset or a record writes them, read once.

    Args:
        given: a number, a mapping from attributes to numbers, or a text: ``10``, ``languagestyle=5,attitude=2`` or
            ``10,attitude=2`` (the others have 10).

    Raises:
        InputError: for anything else, and for numbers that are out of range.
    """
    try:
        if isinstance(given, str):
            given = _parsed(given)
        elif isinstance(given, dict):  # YAML takes 1e3 for a text
            given = {name: float(n) if isinstance(n, str) else n for name, n in given.items()}
    except ValueError:
        raise InputError(f"must be a number or attribute=number,..., found {given!r:.80}") from None
    return checked_weights(given)


def _parsed(text: str) -> Weights:
    first, *parts = text.split(",")
    if "=" not in first and not parts:
        return float(first)
    weights = {} if "=" in first else {OTHERS: float(first)}
    for part in parts if OTHERS in weights else [first, *parts]:
        name, _, number = part.partition("=")
        weights[name.strip()] = float(number)
    return weights


def checked_weights(weights: Any) -> Weights:
    """The weights themselves; raises `InputError` for what are none: every number is from 0 to `STRONGEST`."""
    numbers = list(weights.values()) if isinstance(weights, dict) else [weights]
    if any(
        isinstance(n, bool) or not isinstance(n, (int, float)) or not 0 <= n <= STRONGEST for n in numbers
    ):
        raise InputError(
            f"must be from 0 to {STRONGEST:g}, one number or one by attribute; found {weights!r:.80}"
        )
    return weights


def by_attribute(weights: Weights, names: list[str]) -> dict[str, float]:
    """The weight of every attribute, in the order of `names`.

    Raises:
        InputError: for a weight of an attribute that is not among them.
    """
    given = weights if isinstance(weights, dict) else {OTHERS: weights}
    if unknown := sorted(set(given) - {OTHERS, *names}):
        raise InputError(f"weights of {unknown}; the schema has {names}")
    return {name: float(given.get(name, given.get(OTHERS, 1.0))) for name in names}


def weights_text(weights: Weights) -> str:
    """The inverse of `read_weights`; equal weights have equal texts."""
    if not isinstance(weights, dict):
        return f"{weights:g}" if float(f"{weights:g}") == weights else repr(float(weights))
    others = [weights_text(weights[OTHERS])] if OTHERS in weights else []
    return ",".join(
        [*others, *(f"{name}={weights_text(n)}" for name, n in weights.items() if name != OTHERS)]
    )
