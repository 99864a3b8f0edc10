"""model/gaussian.py: diagonal Gaussians and their KL."""

import torch
from torch.distributions import Normal, kl_divergence

from model.gaussian import MAX_LOGVAR, MIN_LOGVAR, Gaussian, gaussian_from_parameters, kl_per_dimension


def random_gaussian(*shape):
    return Gaussian(torch.randn(shape), torch.randn(shape))


def test_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    q, p = random_gaussian(5, 7), random_gaussian(5, 7)
    expected = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std))
    torch.testing.assert_close(kl_per_dimension(q, p), expected)
    assert kl_per_dimension(q, q).abs().max() < 1e-6


def test_std_and_sample_by_hand():
    gaussian = Gaussian(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.25]).log())
    torch.testing.assert_close(gaussian.std, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(gaussian.sample(torch.tensor([-1.0, 4.0])), torch.tensor([-1.0, 4.0]))


def test_parameters_are_split_clamped_and_computed_in_fp32():
    parameters = torch.tensor([[1.0, -2.0, 100.0, -100.0]], dtype=torch.bfloat16)
    gaussian = gaussian_from_parameters(parameters)
    assert gaussian.mean.tolist() == [[1.0, -2.0]] and gaussian.logvar.tolist() == [[MAX_LOGVAR, MIN_LOGVAR]]
    assert gaussian.mean.dtype == gaussian.logvar.dtype == torch.float32


def test_kl_of_the_most_extreme_heads_is_finite():
    widest, narrowest = (gaussian_from_parameters(torch.tensor([3.0, logvar])) for logvar in (1e9, -1e9))
    assert (
        torch.isfinite(kl_per_dimension(widest, narrowest)).all()
        and torch.isfinite(kl_per_dimension(narrowest, widest)).all()
    )
