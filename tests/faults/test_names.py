"""Names that would be taken for something else are refused."""

import pytest

import train_classifier
from common.errors import InputError
from common.options import parse_arguments
from common.schema import mistakes


def test_no_attribute_is_called_as_the_coherence_model_is():
    (mistake,) = mistakes([{"name": "nli", "aspects": ["a", "b"]}])
    assert mistake == "attribute 'nli': the name is taken, by the coherence model"


@pytest.mark.parametrize("name", ["../../x", "/abs", ".", "..", "a/b", "", " ", "-x", "a b", "..\\x"])
def test_a_run_is_a_plain_name(name):
    with pytest.raises(InputError, match="expected a name of letters"):
        parse_arguments(
            train_classifier.OPTIONS,
            "classifier",
            [f"--run={name}"] if name.strip() else ["--run", name or " "],
            "",
        )


@pytest.mark.parametrize("name", ["demo", "a.b", "2", "x_y-z"])
def test_plain_names_are_taken(name):
    assert parse_arguments(train_classifier.OPTIONS, "classifier", ["--run", name], "")[0].run == name
