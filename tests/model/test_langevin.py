"""model/langevin.py: known moments for a linear energy over many chains."""

import torch

from model.gaussian import Gaussian
from model.langevin import sample_langevin
from model.noise import generators

CHAINS, D = 200, 50


def sources(n=CHAINS, seed=0):
    return generators(seed, [(str(i), "") for i in range(n)], "langevin")


def test_linear_energy_shifts_a_gaussian_prior():
    """p(z) exp(-g.z) is N(mean - s^2 g, s^2); steps of h leave a variance of s^2 / (1 - h / 2), exactly."""
    torch.manual_seed(0)
    mean, variance, g, h = torch.randn(D), 0.3 + torch.rand(D), torch.randn(D), 0.2
    prior = Gaussian(mean.expand(CHAINS, D), variance.log().expand(CHAINS, D))
    sample = sample_langevin(prior.mean, prior, lambda z: z @ g, sources(), steps=60, step_size=h)
    whitened = (
        sample.z - (mean - variance * g)
    ) / variance.sqrt()  # 10,000 numbers, each of mean 0 and variance 1 / (1 - h / 2)
    assert abs(whitened.mean()) < 0.04
    assert whitened.mean(0).abs().max() < 0.35  # every dimension by itself: 200 chains, standard error 0.075
    assert abs(whitened.var() / (1 / (1 - h / 2)) - 1) < 0.05
    torch.testing.assert_close(sample.energy_start, mean.expand(CHAINS, D) @ g)
    torch.testing.assert_close(sample.energy, sample.z @ g)
    assert sample.nfe.tolist() == [60] * CHAINS


def test_without_energy_it_samples_the_prior():
    prior = Gaussian(torch.full((CHAINS, D), 3.0), torch.full((CHAINS, D), 4.0).log())
    z = sample_langevin(prior.mean + 10, prior, lambda z: 0 * z.sum(1), sources(), steps=120, step_size=0.1).z
    assert abs(z.mean() - 3) < 0.1 and abs(z.var() / (4 / 0.95) - 1) < 0.05


def test_chain_depends_on_its_own_source_alone():
    torch.manual_seed(0)
    prior = Gaussian(torch.randn(4, D), torch.randn(4, D))
    energy = lambda z: z.pow(2).sum(1)  # noqa: E731
    together = sample_langevin(prior.mean, prior, energy, sources(4), steps=10).z
    part = Gaussian(prior.mean[2:3], prior.logvar[2:3])
    torch.testing.assert_close(
        sample_langevin(part.mean, part, energy, sources(4)[2:3], steps=10).z, together[2:3]
    )
    assert not torch.allclose(
        sample_langevin(prior.mean, prior, energy, sources(4, seed=1), steps=10).z, together
    )
