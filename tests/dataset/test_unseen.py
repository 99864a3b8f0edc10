"""Unseen combinations: every split keeps every aspect on both sides, and the divergences are those of a calculation by hand."""

import math

import pytest

from common.errors import InputError
from common.schema import Attribute, Schema, load_schema, target_name
from dataset.unseen import (
    MOST,
    PROTOCOLS,
    divergence,
    held_out_names,
    seen_combinations,
    splits_of,
)

TWO = Schema((Attribute("style", ("plain", "lyrical")), Attribute("mood", ("calm", "angry"))))


def names(schema):
    return [target_name(target) for target in schema.combinations()]


def test_hold_out_takes_each_combination_once(three):
    splits = splits_of("hold-out", three)
    assert [split.held_out for split in splits] == [(name,) for name in names(three)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_aspect_stays_on_both_sides(protocol, three):
    for schema in (three, load_schema()):
        for split in splits_of(protocol, schema):
            seen = [name for name in names(schema) if name not in split.held_out]
            aspects = {aspect for values in schema.aspects.values() for aspect in values}
            assert {aspect for name in seen for aspect in name.split("+")} == aspects
            if protocol != "hold-out":
                assert {aspect for name in split.held_out for aspect in name.split("+")} == aspects
            assert split.divergence == pytest.approx(divergence(seen, split.held_out))


def test_acd_is_an_even_division_of_greatest_divergence():
    """Of two attributes there are two divisions that keep every aspect on both sides, and they share no pair."""
    splits = splits_of("acd", TWO)
    assert [split.held_out for split in splits] == [
        ("plain+angry", "lyrical+calm"),
        ("plain+calm", "lyrical+angry"),
    ]
    assert all(split.divergence == 1.0 for split in splits)
    of_ours = splits_of("acd", load_schema())
    assert len(of_ours) == MOST and {len(split.held_out) for split in of_ours} == {4}
    assert len({split.held_out for split in of_ours}) == MOST


def test_few_shot_sees_as_few_as_hold_every_aspect(three):
    assert {len(names(three)) - len(split.held_out) for split in splits_of("few-shot", three)} == {3}
    assert len(splits_of("few-shot", load_schema())) == 4  # a combination and its opposite


def test_the_divergence_by_hand():
    """Of the pairs of a+b and c+d only a+b is in both; p = 1/2 of the seen, q = 1 of the unseen."""
    assert divergence(["a+b", "c+d"], ["a+b"]) == pytest.approx(1 - math.pow(0.5, 0.1))
    assert divergence(["a+b", "c+d"], ["c+d", "a+b"]) == pytest.approx(0.0)
    assert divergence(["a+b"], ["a+c"]) == 1.0


def test_held_out_lists_are_read_and_checked(three):
    assert held_out_names("lyrical+angry, plain+calm", TWO) == ("plain+calm", "lyrical+angry")
    assert held_out_names(["angry+lyrical"], TWO) == ("lyrical+angry",)
    assert seen_combinations(TWO, ("plain+calm",)) == [
        {"style": "plain", "mood": "angry"},
        {"style": "lyrical", "mood": "calm"},
        {"style": "lyrical", "mood": "angry"},
    ]
    for wrong, message in (
        ("", "held_out: no combination is named"),
        ("lyrical", "held_out: 'lyrical' names no aspect of mood; expected one such as lyrical+angry"),
        ("lyrical+sad", "held_out: unknown aspect 'sad'"),
        ("plain+calm,plain+angry", "held_out: plain would be in no combination that is seen"),
        ([3], "held_out: expected combinations such as lyrical+angry, found 3"),
    ):
        with pytest.raises(InputError) as error:
            held_out_names(wrong, TWO)
        assert str(error.value).startswith(message)


def test_a_schema_of_one_attribute_has_no_split():
    with pytest.raises(InputError, match="acd: the 2 combinations of .* have no such division"):
        splits_of("acd", Schema((Attribute("style", ("plain", "lyrical")),)))
    with pytest.raises(InputError, match="expected one of hold-out, acd, few-shot, found 'half'"):
        splits_of("half", TWO)
