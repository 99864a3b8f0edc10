"""Energies and samplers by name: what is in a registry is an option, with its meaning in the help."""

import pytest
import torch

from common.options import meanings, parser_of
from generation.energies import ENERGIES
from generation.options import ControlArguments
from generation.requests import Request
from generation.samplers import SAMPLERS
from miracle import Miracle

REQUESTS = [
    Request(str(i), (f"Shall we walk to the sea {i}?",), {"attitude": aspect})
    for i, aspect in enumerate(("optimistic", "pessimistic"))
]


@pytest.mark.parametrize(("option", "registry"), [("energy", ENERGIES), ("algorithm", SAMPLERS)])
def test_a_registry_s_names_are_the_option_s(option, registry):
    (action,) = (a for a in parser_of((ControlArguments,))._actions if a.dest == option)
    assert list(action.choices) == list(registry) and action.default in registry
    for name in registry:
        assert f"{name}: " in action.help


def test_a_name_s_meaning_is_the_first_sentence_of_its_docstring():
    def one():
        """Half of 100 %.

        More of it.
        """

    assert meanings({"one": one, "two": one}) == "one: Half of 100 %%; two: Half of 100 %%"


def test_a_new_energy_is_a_function_and_a_line(tiny_run, monkeypatch):
    """A spring to where the first weight says, far from the prior: the latents end there."""

    def spring(wanted):
        assert wanted.targets.shape == (2, 3) and wanted.prior.mean.shape[0] == 2
        return lambda rows: lambda z: 200.0 * (z - wanted.weights[0]).pow(2).sum(1)

    monkeypatch.setitem(ENERGIES, "spring", spring)
    generator = Miracle.from_run(tiny_run, "cpu").generator
    asked = ControlArguments(energy="spring", weights=2.0)
    sample = generator.latents(REQUESTS, asked, 8)
    torch.testing.assert_close(sample.z, torch.full_like(sample.z, 2.0), atol=0.05, rtol=0)
    assert (sample.energy < sample.energy_start).all()
    assert not torch.allclose(generator.latents(REQUESTS, ControlArguments(), 8).z, sample.z, atol=0.5)
