"""Weights of the loss as options: those with a name of their own, and further terms by name."""

import pytest

from common.errors import InputError
from common.options import CommonArguments, parse_arguments
from model.losses import TERMS
from training.cvae import LossArguments


def parsed(*argv):
    return parse_arguments((CommonArguments, LossArguments), "none", list(argv), "")[1]


def test_weights_by_name():
    loss = LossArguments(kl_weight=0.2, classification_weight=3.0, distance_weight=0.4, context_weight=0.5)
    assert loss.weights.weights == {
        "reconstruction": 1.0,
        "kl": 0.2,
        "classification": 3.0,
        "distance": 0.4,
        "context": 0.5,
        "flow": 1.0,
    }
    assert loss.weights.free_bits == loss.free_bits


def test_a_further_term_is_weighed_on_the_command_line(monkeypatch):
    monkeypatch.setitem(TERMS, "size", lambda given: {"size": given.z.pow(2).mean()})
    loss = parsed("--term_weights", "size=0.3")
    assert loss.weights["size"] == 0.3 and loss.settings["term_weights"] == {"size": 0.3}
    assert parsed("--term-weights", "size=0.3") == loss


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("size=1", "term_weights: no such term of the loss: size; there are reconstruction, kl"),
        ("kl=1", "term_weights: kl is no further term; it has a weight of its own"),
        ("3", "argument --term_weights/--term-weights: must be term=number,..., found '3'"),
        ("size=-1", "must be from 0 to 100000"),
    ],
)
def test_other_term_weights_are_refused(text, said):
    with pytest.raises(InputError, match=said):
        parsed("--term_weights", text)


def test_trainings_from_before_there_were_further_terms_count():
    """Their fingerprint is over settings without `term_weights`."""
    assert "term_weights" not in parsed().settings
