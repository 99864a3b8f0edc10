"""model/energy.py: the energy of aspects and its gradient."""

import pytest
import torch
from conftest import negative_log_probability

from model.energy import aspect_energy, energy_gradient
from model.heads import LatentHeads

TARGETS = torch.tensor([[0, 2], [1, -1], [-1, 0], [-1, -1], [1, 1]])


def some_heads(layers=2):
    torch.manual_seed(0)
    return LatentHeads(8, [2, 3], width=16, layers=layers), torch.randn(5, 8)


def test_energy_is_the_weighted_sum_over_named_attributes():
    heads, z = some_heads()
    nll = negative_log_probability(heads, z, TARGETS)
    values = aspect_energy(heads, TARGETS, torch.tensor([2.0, 5.0]))(z)
    torch.testing.assert_close(values, 2 * nll[:, 0] + 5 * nll[:, 1])
    assert (values >= 0).all() and values[3] == 0
    rows = torch.arange(10.0).view(5, 2)
    torch.testing.assert_close(aspect_energy(heads, TARGETS, rows)(z), (rows * nll).sum(1))


def test_gradient_is_not_multiplied_by_the_batch_size():
    """The published energy subtracts a [B] from a [B, 1] tensor, so that every gradient grows with the batch."""
    heads, z = some_heads()
    weights = torch.tensor([2.0, 5.0])
    together = energy_gradient(aspect_energy(heads, TARGETS, weights), z)
    for i in (0, 1, 2, 4):
        alone = energy_gradient(aspect_energy(heads, TARGETS[i : i + 1], weights), z[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    many = energy_gradient(aspect_energy(heads, TARGETS[:1].expand(128, -1), weights), z[:1].expand(128, -1))
    torch.testing.assert_close(many, together[:1].expand(128, -1))


def test_gradient_of_linear_heads_by_hand():
    heads, z = some_heads(layers=0)
    expected = torch.zeros(5, 8)
    for k, (head, weight) in enumerate(zip(heads.heads, (2.0, 5.0))):
        for row in range(5):
            if TARGETS[row, k] >= 0:
                excess = torch.softmax(head(z[row]), -1) - torch.eye(head[0].out_features)[TARGETS[row, k]]
                expected[row] += weight * (excess @ head[0].weight)
    torch.testing.assert_close(
        energy_gradient(aspect_energy(heads, TARGETS, torch.tensor([2.0, 5.0])), z), expected.detach()
    )


def test_every_named_attribute_pulls():
    """MultiControl's energy resets its list inside the loop, so that only the last attribute counts."""
    heads, z = some_heads()
    both, first, second = (
        energy_gradient(aspect_energy(heads, torch.tensor([pair] * 5), torch.ones(2)), z)
        for pair in ([0, 2], [0, -1], [-1, 2])
    )
    torch.testing.assert_close(both, first + second)
    assert first.abs().max() > 1e-3 and second.abs().max() > 1e-3


def test_target_that_names_nothing_has_no_gradient_in_company_and_alone():
    heads, z = some_heads()
    assert energy_gradient(aspect_energy(heads, TARGETS, torch.ones(2)), z)[3].tolist() == [0.0] * 8
    assert energy_gradient(aspect_energy(heads, TARGETS[3:4], torch.ones(2)), z[3:4]).tolist() == [[0.0] * 8]


def test_gradient_leaves_the_heads_and_the_latents_as_they_are():
    heads, z = some_heads()
    with torch.no_grad():
        gradient = energy_gradient(aspect_energy(heads, TARGETS, torch.ones(2)), z)
    assert (
        not z.requires_grad and not gradient.requires_grad and all(p.grad is None for p in heads.parameters())
    )


def test_going_down_the_gradient_makes_the_aspect_likelier():
    heads, z = some_heads()
    energy = aspect_energy(heads, TARGETS, torch.ones(2))
    assert (energy(z - 0.01 * energy_gradient(energy, z)) < energy(z))[[0, 1, 2, 4]].all()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_closed_form_gradient_is_that_of_autograd(layers):
    """Two attributes with 2 and 3 aspects; of the latter, and of both, some rows name nothing."""
    torch.manual_seed(layers)
    heads = LatentHeads(8, [2, 3], width=16, layers=layers).double()
    z, weights = torch.randn(5, 8, dtype=torch.double), torch.rand(5, 2, dtype=torch.double) * 10
    energy = aspect_energy(heads, TARGETS, weights)

    def plain(z):
        return (weights * negative_log_probability(heads, z, TARGETS)).sum(1)

    torch.testing.assert_close(energy(z), plain(z).detach())
    torch.testing.assert_close(energy_gradient(energy, z), energy_gradient(plain, z))
