"""Dials of hand-made replies: what is monotone, what is gained, what the others lose."""

import numpy as np
import pytest

from common.errors import InputError
from common.schema import Attribute, Schema
from scoring.dials import csv_rows, is_monotone, summary, sweep_of

TWO = Schema((Attribute("style", ("plain", "lyrical")), Attribute("mood", ("calm", "angry"))))


def row(context, aspects, strength, own, other):
    """A scored reply of the dial of ``style``: probabilities of the aspects asked for."""
    target = dict(zip(TWO.names, aspects))
    chances = {
        a.name: {x: p if x == target[a.name] else 1 - p for x in a.aspects}
        for a, p in zip(TWO.attributes, (own, other))
    }
    row = {"context": [context], "target": target, "response": "x", "probabilities": chances, "nli": 0.5}
    return row | {"dial": "style", "strength": strength}


def sweep(curves):
    """context -> (own curves of its two targets, the other attribute's)."""
    targets = (("plain", "calm"), ("lyrical", "calm"))
    return [
        row(context, aspects, strength, own[i], other[i])
        for context, two in curves.items()
        for aspects, (own, other) in zip(targets, two)
        for i, strength in enumerate((10.0, 0.0, 1.0))
    ]


def test_a_dial_by_hand():
    """Strengths come as they like and are put in order 0, 1, 10; the second context's mean curve falls from 0.6 to 0.5."""
    rows = sweep(
        {
            "a": [((0.9, 0.2, 0.5), (0.7, 0.8, 0.8)), ((0.7, 0.4, 0.36), (0.7, 0.8, 0.8))],
            "b": [((0.5, 0.4, 0.7), (0.9, 0.8, 0.8)), ((0.5, 0.4, 0.5), (0.5, 0.8, 0.8))],
        }
    )
    found = summary(sweep_of(rows, "style", TWO))
    assert found["strengths"] == [0.0, 1.0, 10.0] and found["contexts"] == 2 and found["targets"] == 2
    assert found["monotone_contexts"]["value"] == 0.5
    assert found["monotone_replies"]["value"] == 0.75  # only b's first falls by more than 0.05
    assert found["gain"]["value"] == pytest.approx(((0.8 - 0.3) + (0.5 - 0.4)) / 2)
    assert found["gain"]["ci95"] == pytest.approx([0.1, 0.5])
    assert found["held_change"]["value"] == pytest.approx(-0.1)
    assert found["held_largest"] == {"strength": 10.0, "value": pytest.approx(-0.1)}
    assert [point["probability"]["value"] for point in found["points"]] == pytest.approx([0.35, 0.515, 0.65])
    lines = csv_rows([found])
    assert [line["strength"] for line in lines] == [0.0, 1.0, 10.0] and lines[0]["attribute"] == "style"
    assert lines[2]["held"] == pytest.approx(0.7)


def test_a_context_s_curve_is_the_mean_over_seeds_too():
    """Each seed's curve falls by 0.2 somewhere, their mean nowhere."""
    curves = [((0.9, 0.2, 0.7), (0.8, 0.8, 0.8)), ((0.9, 0.7, 0.5), (0.8, 0.8, 0.8))]  # at 10, 0 and 1
    rows = [row | {"seed": seed} for seed in (3, 4) for row in sweep({"a": curves})]
    for one in rows:
        if one["seed"] == 4 and one["target"]["style"] == "lyrical" and one["strength"] == 1.0:
            one["probabilities"]["style"] = {"plain": 0.05, "lyrical": 0.95}
    found = summary(sweep_of(rows, "style", TWO))
    assert (found["targets"], found["replies"]) == (2, 2)
    assert found["monotone_contexts"]["value"] == 1 and found["monotone_replies"]["value"] == 0.75
    assert [point["probability"]["value"] for point in found["points"]] == pytest.approx([0.45, 0.7125, 0.9])
    alone = summary(sweep_of(rows[:6], "style", TWO))
    assert alone["replies"] == 1 and alone["points"][1]["probability"]["value"] == pytest.approx(0.6)
    with pytest.raises(InputError, match="is not complete: 11 scored replies"):
        sweep_of(rows[:-1], "style", TWO)


def test_monotone_is_measured_from_the_highest_value_before():
    """Small falls that add up to more than the tolerance are no monotone curve."""
    curves = np.array(
        [[0.5, 0.46, 0.42, 0.9], [0.5, 0.46, 0.45, 0.9], [0.2, 0.2, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1]]
    )
    assert is_monotone(curves).tolist() == [False, True, True, False]


def test_a_sweep_with_a_hole_is_refused():
    rows = sweep({"a": [((0.9, 0.2, 0.5), (0.7, 0.8, 0.8))] * 2})
    with pytest.raises(
        InputError,
        match="the sweep of style is not complete: 5 scored replies for 1 contexts x 2 targets and seeds x 3 strengths",
    ):
        sweep_of(rows[:-1], "style", TWO)
    with pytest.raises(InputError, match="the sweep of mood is not complete: 0 scored replies"):
        sweep_of(rows, "mood", TWO)


def test_one_attribute_alone_has_nothing_held():
    one = Schema((Attribute("style", ("plain", "lyrical")),))
    rows = [
        {
            "context": [c],
            "target": {"style": "plain"},
            "probabilities": {"style": {"plain": p, "lyrical": 1 - p}},
        }
        | {"nli": 0.5, "dial": "style", "strength": s}
        for c in "ab"
        for s, p in ((0.0, 0.2), (1.0, 0.9))
    ]
    found = summary(sweep_of(rows, "style", one))
    assert found["held_change"]["value"] is None and found["held_largest"] is None
    assert found["gain"]["value"] == pytest.approx(0.7)
