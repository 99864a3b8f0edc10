"""Weights of the energy: read once, typed from there on, and found again in what version 0.1 recorded."""

import json

import pytest

from common.errors import InputError
from common.options import CommonArguments, parse_arguments
from generation.control_weights import by_attribute, read_weights, weights_text
from generation.options import ControlArguments, recorded_options
from generation.run import check_replaces_its_like


@pytest.mark.parametrize(
    ("given", "weights", "a", "b"),
    [
        ("10", 10.0, 10, 10),
        ("a=2", {"a": 2.0}, 2, 1),
        ("b=0.5, a=3", {"b": 0.5, "a": 3.0}, 3, 0.5),
        ("100,b=3", {"*": 100.0, "b": 3.0}, 100, 3),
        ("7, b = 0", {"*": 7.0, "b": 0.0}, 7, 0),
        (10, 10, 10, 10),
        ({"a": 2, "b": "1e3"}, {"a": 2, "b": 1000.0}, 2, 1000),
    ],
)
def test_weights_are_read_once(given, weights, a, b):
    read = read_weights(given)
    assert read == weights and by_attribute(read, ["a", "b"]) == {"a": a, "b": b}
    assert read_weights(weights_text(read)) == weights


@pytest.mark.parametrize(
    "given",
    [
        "strong",
        "-1",
        "a=x",
        "nan",
        "inf",
        "1,2",
        "a=1,5",
        "10,a=-1",
        "",
        "1e20",
        "1,a=1e20",
        1e20,
        10**400,
        -1,
        True,
        None,
        [1],
        {"a": None},
    ],
)
def test_bad_weights_are_refused(given):
    with pytest.raises(InputError, match="must be"):
        read_weights(given)


def test_a_weight_of_an_unknown_attribute_is_refused():
    with pytest.raises(InputError, match=r"weights of \['c'\]; the schema has \['a', 'b'\]"):
        by_attribute({"c": 2.0}, ["a", "b"])


@pytest.mark.parametrize("weights", ["10", -1.0, {"a": float("nan")}])
def test_options_take_typed_weights_alone(weights):
    with pytest.raises(InputError, match="weights: must be from 0 to 100000, one number or one by attribute"):
        ControlArguments(weights=weights)


def parsed(*argv):
    return parse_arguments((CommonArguments, ControlArguments), "none", list(argv), "")[1].weights


def test_the_command_line_reads_weights():
    assert parsed() == 10.0 and parsed("--weights", "3,attitude=5") == {"*": 3.0, "attitude": 5.0}
    with pytest.raises(InputError, match="argument --weights: must be a number .*, found 'strong'"):
        parsed("--weights", "strong")


@pytest.mark.parametrize(
    "text, number", [("weights: '60'", 60.0), ("weights: 60", 60), ("weights: {a: 2}", {"a": 2})]
)
def test_a_preset_gives_a_number_a_mapping_or_a_text(tmp_path, text, number):
    preset = tmp_path / "own.yaml"
    preset.write_text(f"none: {{{text}}}\n")
    assert parsed("--preset", str(preset)) == number


def test_runs_that_recorded_a_text_still_load(tmp_path):
    """Version 0.1 recorded ``"weights": "60"``."""
    record = {"weights": "60", "seed": 3, "other": 1}
    assert ControlArguments(**recorded_options(ControlArguments, record)) == ControlArguments(
        weights=60.0, seed=3
    )
    place = tmp_path / "control.json"
    place.write_text(json.dumps({"run": {"config": {"generation": record}}}))
    check_replaces_its_like(place, {"weights": 60.0, "seed": 3})
    with pytest.raises(InputError, match=r"weights 60\.0, now 61\.0"):
        check_replaces_its_like(place, {"weights": 61.0, "seed": 3})


def test_equal_weights_have_equal_texts():
    """Keys of experiments' cells hash the text, as when weights were one."""
    assert weights_text(10.0) == weights_text(10) == "10" and weights_text(3e38) == "3e+38"
    assert weights_text(1234567.0) != weights_text(1234568.0)
