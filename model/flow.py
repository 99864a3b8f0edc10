"""A flow-matching prior: what the posterior of each aspect looks like in whitened latent coordinates, learnt as a velocity field.

The energy steers by classifiers, which say on what side of a border a latent is, not where latents of an aspect lie. With
z = mean + std * u in the prior of an example's target, a field v carries N(0, I) at t = 0 to the u of its aspects at t = 1
(conditional flow matching with straight paths: Lipman et al., ICLR 2023; Liu et al., ICLR 2023):

    L = E |v(u_t, t) - (u_1 - u_0)|^2 / D,   u_t = (1 - t) u_0 + t u_1.

The field is a shared part and a difference per aspect, v = v_0 + sum_k w_k d_{a_k}. In training the w_k are 1, and in a share of
the examples 0, so that v_0 is the field of all latents; when latents are sampled they are the strength dials, as in classifier-free
guidance (Ho and Salimans, 2022) and the composition of diffusion models (Liu et al., ECCV 2022). That the differences of several
attributes add up, as if these were independent given u, is an approximation.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from model.energy import Energy
from model.gaussian import Gaussian
from model.rowwise import solve_rowwise
from model.sampler import Sample

FREQUENCIES = 8  # of the time's embedding
LEFT_OUT = 0.2  # share of the examples whose aspects are hidden in training


class VelocityField(nn.Module):
    """The field of all aspects.

    Args:
        latent_size: D.
        aspects: number of aspects of each attribute; A in all.
        width: of its two hidden layers.
    """

    def __init__(self, latent_size: int, aspects: list[int], width: int):
        super().__init__()
        self.aspects = list(aspects)
        self.trunk = nn.Sequential(
            nn.Linear(latent_size + 2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.shared = nn.Linear(width, latent_size)
        self.differences = nn.Linear(width, sum(aspects) * latent_size)

    def forward(self, u: torch.Tensor, time: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The velocity, [B, D].

        Args:
            u: whitened latents, [B, D].
            time: in [0, 1], [B, 1].
            weights: of every aspect, [B, A], see `aspect_weights`.
        """
        angles = time * (math.pi * torch.arange(1, FREQUENCIES + 1, device=u.device, dtype=u.dtype))
        hidden = self.trunk(torch.cat([u, angles.sin(), angles.cos()], dim=1))
        differences = self.differences(hidden).unflatten(1, (weights.shape[1], -1))  # [B, A, D]
        return self.shared(hidden) + torch.einsum("ba,bad->bd", weights, differences)

    def aspect_weights(self, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The attributes' weights at the aspects that are named, 0 elsewhere, [B, A].

        Args:
            targets: [B, K] aspect indices, -1 where an attribute is not named.
            weights: [B, K] or [K].
        """
        columns = [
            F.one_hot(targets[:, k] + 1, size + 1)[:, 1:] * weights[..., k : k + 1]
            for k, size in enumerate(self.aspects)
        ]
        return torch.cat(columns, dim=1)


def flow_loss(
    field: VelocityField,
    u: torch.Tensor,
    targets: torch.Tensor,
    noise: torch.Tensor | None = None,
    time: torch.Tensor | None = None,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error of the velocity per example and dimension, [B].

    Args:
        u: whitened posterior samples, [B, D]; no gradient goes there.
        targets: [B, K] aspect indices, -1 where an example is not labelled for an attribute.
        noise: u_0, [B, D]; time: [B, 1]; hidden: bool [B, 1], whose aspects are hidden. Drawn where None.
    """
    u = u.detach()
    noise = torch.randn_like(u) if noise is None else noise
    time = torch.rand_like(u[:, :1]) if time is None else time
    hidden = torch.rand_like(u[:, :1]) < LEFT_OUT if hidden is None else hidden
    weights = field.aspect_weights(targets, torch.where(hidden, 0.0, 1.0).expand(-1, targets.shape[1]))
    velocity = field(torch.lerp(noise, u, time), time, weights.to(u.dtype))
    return (velocity.float() - (u - noise)).square().mean(1)


@torch.no_grad()
def sample_flow(
    field: VelocityField,
    start: torch.Tensor,
    prior: Gaussian,
    targets: torch.Tensor,
    weights: torch.Tensor,
    energy: Energy,
    tolerance: float,
) -> Sample:
    """Carry latents from the prior along the composed field, by the solver whose examples each have their own step.

    Args:
        start: [B, D], the prior's mean or a sample of it.
        prior: the combined prior of each example, [B, D].
        targets: [B, K] aspect indices, -1 where an attribute is not named.
        weights: [K], the strength dials.
        energy: of the whole batch; it steers nothing here, and is reported as of every sampler.
        tolerance: of the solver.
    """
    of_aspects = field.aspect_weights(targets, weights).to(start.dtype)  # [B, A]

    def drift_of(rows: torch.Tensor):
        own = of_aspects[rows]
        return lambda time, u: field(u, time.expand(len(u), 1), own)

    solution = solve_rowwise(drift_of, (start - prior.mean) / prior.std, [1.0], tolerance)
    z = prior.sample(solution.states[-1])
    return Sample(z, energy(start), energy(z), solution.nfe, converged=solution.converged)
