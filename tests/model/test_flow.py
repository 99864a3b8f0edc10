"""The flow-matching prior: fields with closed-form answers, and a field that learns two aspects' distributions."""

import pytest
import torch

from common.errors import InputError
from generation.options import ControlArguments
from generation.problem import Problem
from generation.samplers import SAMPLERS
from model.flow import VelocityField, flow_loss, sample_flow
from model.gaussian import Gaussian
from model.losses import LossWeights


@pytest.fixture(autouse=True)
def _one_thread():
    """For products this small a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def constant_field(latent_size, aspects, shared, differences):
    """A field whose parts do not depend on u or t."""
    field = VelocityField(latent_size, aspects, 8)
    with torch.no_grad():
        for part in (field.shared, field.differences):
            part.weight.zero_()
        field.shared.bias.copy_(torch.tensor(shared))
        field.differences.bias.copy_(torch.tensor(differences).flatten())
    return field


FIELD = constant_field(2, [2, 3], [0.5, 0.0], [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
PRIOR = Gaussian(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]]))


def zero_energy(z):
    return z.new_zeros(len(z))


def test_weights_stand_at_the_aspects_that_are_named():
    weights = FIELD.aspect_weights(torch.tensor([[1, 2], [-1, 0]]), torch.tensor([2.0, 3.0]))
    assert weights.tolist() == [[0, 2, 0, 0, 3], [0, 0, 3, 0, 0]]


def test_a_constant_field_moves_by_the_shared_part_and_the_weighted_differences_in_units_of_the_prior():
    targets, weights = torch.tensor([[1, 2], [-1, 0]]), torch.tensor([2.0, 1.0])
    sample = sample_flow(FIELD, PRIOR.mean, PRIOR, targets, weights, zero_energy, 1e-4)
    std = torch.exp(torch.tensor(1.0))
    expected = torch.tensor([[1.0 + 0.5 - 2.0, 1.0 + 3.0], [0.5 * std, 1.0]])
    torch.testing.assert_close(sample.z, expected)
    assert sample.converged.all() and (sample.nfe > 0).all()


def test_an_example_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    field, start = VelocityField(3, [2], 16), torch.randn(5, 3)
    prior = Gaussian(torch.zeros(5, 3), torch.zeros(5, 3))
    targets, weights = torch.tensor([[0], [1], [-1], [0], [1]]), torch.tensor([4.0])
    together = sample_flow(field, start, prior, targets, weights, zero_energy, 1e-3).z
    for row in range(5):
        part = Gaussian(prior.mean[row : row + 1], prior.logvar[row : row + 1])
        alone = sample_flow(field, start[row : row + 1], part, targets[row : row + 1], weights, zero_energy, 1e-3).z  # fmt: skip
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_squared_error_of_the_velocity_and_hidden_aspects_leave_the_shared_part():
    u, noise = (
        torch.tensor([[2.0, 1.0], [2.0, 1.0]]),
        torch.tensor([[1.0, 1.0], [1.0, 1.0]]),
    )  # u - noise = (1, 0)
    targets, time = torch.tensor([[0, -1], [0, -1]]), torch.full((2, 1), 0.3)
    loss = flow_loss(FIELD, u.requires_grad_(), targets, noise, time, torch.tensor([[False], [True]]))
    torch.testing.assert_close(loss, torch.tensor([0.5**2 / 2, 0.5**2 / 2]))  # (1.5, 0) and (0.5, 0)
    loss.sum().backward()
    assert u.grad is None  # the posterior is not bent to what the field can follow


def test_a_field_learns_where_the_latents_of_an_aspect_lie():
    """u is around -2 or 2 in its first dimension by the aspect, and N(0, 1) in the second; half-way the weight takes it half-way."""
    torch.manual_seed(0)
    field = VelocityField(2, [2], 32)
    optimizer = torch.optim.Adam(field.parameters(), lr=8e-3)
    for _ in range(300):
        aspect = torch.randint(2, (192, 1))
        u = torch.randn(192, 2) * torch.tensor([0.4, 1.0]) + torch.cat([4.0 * aspect - 2, 0 * aspect], dim=1)
        optimizer.zero_grad()
        flow_loss(field, u, aspect).mean().backward()
        optimizer.step()
    start = torch.randn(400, 2)
    prior = Gaussian(torch.zeros(400, 2), torch.zeros(400, 2))
    targets = torch.arange(400).unsqueeze(1) % 2

    def ends(weight):
        return sample_flow(field, start, prior, targets, torch.tensor([weight]), zero_energy, 1e-3).z

    low, high = ends(1.0)[::2], ends(1.0)[1::2]
    torch.testing.assert_close(low.mean(0), torch.tensor([-2.0, 0.0]), atol=0.3, rtol=0)
    torch.testing.assert_close(high.mean(0), torch.tensor([2.0, 0.0]), atol=0.3, rtol=0)
    assert 0.25 < high[:, 0].std() < 0.6 and 0.8 < high[:, 1].std() < 1.2
    sides = (ends(0.0)[1::2, 0] > 0).float().mean()
    assert 0.35 < sides < 0.65  # without a weight both aspects' latents are reached


def test_a_cvae_trains_its_flow_beside_everything_else(make_miracle, batch):
    """The term's gradient reaches the field alone, and a model without one has the term 0."""
    model = make_miracle(flow_width=16)
    weights = LossWeights(flow=1.0).replace(reconstruction=0.0)
    terms = model(**batch, weights=weights)
    terms["loss"].backward()
    assert terms["flow"] > 0
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}  # fmt: skip
    assert moved == {"flow"}
    with torch.no_grad():
        assert make_miracle()(**batch, weights=weights)["flow"] == 0


def test_a_flow_is_saved_and_loaded(make_miracle, tmp_path):
    model = make_miracle(flow_width=16)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.flow_width == 16
    torch.testing.assert_close(loaded.flow.state_dict(), model.flow.state_dict())


def test_the_sampler_takes_the_dials_and_refuses_a_model_without_a_flow():
    targets, weights = torch.tensor([[1, 2], [-1, 0]]), torch.tensor([2.0, 1.0])
    parts = (PRIOR.mean, PRIOR, lambda rows: zero_energy, targets, [("a", "b")] * 2, weights)
    sample = SAMPLERS["flow"](Problem(*parts, FIELD), ControlArguments(algorithm="flow", tolerance=1e-4))
    expected = sample_flow(FIELD, PRIOR.mean, PRIOR, targets, weights, zero_energy, 1e-4)
    torch.testing.assert_close(sample.z, expected.z)
    with pytest.raises(InputError, match="--algorithm flow: this CVAE has no flow-matching prior"):
        SAMPLERS["flow"](Problem(*parts), ControlArguments(algorithm="flow"))
