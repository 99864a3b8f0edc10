"""Dials as text, and what of a system message they are."""

import pytest

from common.errors import InputError
from server.dials import Dials, dials_of_system, listed_models, read_dials, split_model


def test_dials_are_read_and_written(three):
    dials = read_dials(" lyrical , optimistic*0.5+sad *2", three)
    assert dials.target == {"style": "lyrical", "attitude": "optimistic", "mood": "sad"}
    assert dials.factors == {"attitude": 0.5, "mood": 2.0}
    assert (
        dials.text(three) == "lyrical,optimistic*0.5,sad*2" and read_dials(dials.text(three), three) == dials
    )
    assert dials.weights({"style": 10.0, "attitude": 10.0, "mood": 3.0}) == {
        "style": 10.0, "attitude": 5.0, "mood": 6.0,
    }  # fmt: skip
    assert read_dials("", three) == Dials()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lyrcal", "lyrcal"), ("lyrical*x", "no dial"), ("lyrical*-1", "no dial"), ("lyrical,plain", "both of style"),
        ("lyrical*1e9", "no dial"), ("lyrical*99999", "at most"), ("a" * 999, "a"), ("lyrical*\u0661", "no dial"),
    ],
)  # fmt: skip
def test_what_is_no_dial_is_named(three, text, reason):
    with pytest.raises(InputError, match=reason):
        read_dials(text, three)


def test_later_dials_take_the_place_of_earlier_ones():
    assert Dials({"a": "x", "b": "y"}, {"a": 2.0, "b": 3.0}) | Dials({"a": "z"}) == Dials(
        {"a": "z", "b": "y"}, {"b": 3.0}
    )


def test_a_system_message_of_aspects_is_dials_and_any_other_is_context(three):
    assert dials_of_system("lyrical, sad*0.5", three) == (read_dials("lyrical,sad*0.5", three), "")
    assert dials_of_system("You are kind.\nDials: lyrical\nBe brief.", three) == (
        read_dials("lyrical", three), "You are kind.\nBe brief.",
    )  # fmt: skip
    assert dials_of_system("You are a lyrical poet.", three) == (Dials(), "You are a lyrical poet.")
    with pytest.raises(InputError, match="happy"):
        dials_of_system("dials: happy", three)


def test_a_model_s_name_carries_dials(three):
    assert split_model("chat:lyrical,sad", "chat") == "lyrical,sad" and split_model("chat", "chat") == ""
    assert split_model("gpt-4", "chat") is None
    names = listed_models("chat", three)
    assert names[0] == "chat" and len(names) == 1 + 7 + 12 and "chat:lyrical,optimistic,sad" in names
