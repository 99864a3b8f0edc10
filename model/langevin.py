"""Langevin dynamics on p(z | c, a): the reference for what the ODE should reach."""

import torch

from model.energy import Energy, energy_gradient
from model.gaussian import Gaussian
from model.noise import normal
from model.sampler import Sample


def sample_langevin(
    start: torch.Tensor,
    prior: Gaussian,
    energy: Energy,
    sources: list[torch.Generator],
    steps: int = 200,
    step_size: float = 0.02,
) -> Sample:
    """Unadjusted Langevin dynamics in the prior's whitened coordinates, the prior's own term included.

    u <- u - h (u + grad_u E) + sqrt(2 h) noise, with z = mean + std * u; its stationary distribution is
    p(z | c) exp(-E(a | z)) up to O(h) (LatentOps, section 3.2, samples the same target).

    Args:
        start: [B, D].
        prior: [B, D].
        energy: of the whole batch.
        sources: one noise generator per row.
        steps, step_size: number of steps and h.
    """
    u = (start - prior.mean) / prior.std
    with torch.no_grad():
        energy_start = energy(start)
        for _ in range(steps):
            gradient = prior.std * energy_gradient(energy, prior.sample(u))
            noise = normal(sources, u.shape[1], u.device)
            u = u - step_size * (u + gradient) + (2.0 * step_size) ** 0.5 * noise
        z = prior.sample(u)
        return Sample(z, energy_start, energy(z), torch.full((z.shape[0],), steps, device=z.device))
