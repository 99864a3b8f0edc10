"""The energy of aspects in latent space: E(a | z) = sum_k w_k * (-log softmax(head_k(z))[a_k]).

Positive = worse. p(z | c, a) is proportional to p(z | c) exp(-E(a | z)) (section 3.3 of the paper; LACE, eq. 4). The
published code subtracts a [B] from a [B, 1] tensor, which multiplies every gradient by the batch size (128 as run);
here energies stay [B], so that published behaviour corresponds to weights near 128.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch.nn import functional as F

from model.heads import LatentHeads, StackedHeads


class Energy(Protocol):
    """An energy of a batch of latents. Any function of z will do; `energy_gradient` differentiates it."""

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """z [B, D] -> E [B], example by example; lower is better."""
        ...


@runtime_checkable
class EnergyWithGradient(Energy, Protocol):
    """An energy with a gradient in closed form that reads nothing back from the device, so that a solver's step with it can be
    recorded as a CUDA graph, and kept: another energy of the same class and shapes puts its tensors in place of these."""

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        """dE/dz, [B, D]."""
        ...

    def tensors(self) -> list[torch.Tensor]:
        """All that the gradient reads besides z."""
        ...


EnergyOf = Callable[
    [torch.Tensor], Energy
]  # rows [n] of a batch -> their energy: a part of it can be solved alone


class AspectEnergy:
    """The energy of a batch of targets, and its gradient in closed form.

    Args:
        targets: [B, K] aspect indices, -1 where an attribute is not named.
        weights: [B, K] or [K], the strength dials w_k.
    """

    def __init__(
        self,
        heads: LatentHeads,
        targets: torch.Tensor,
        weights: torch.Tensor,
        stacked: StackedHeads | None = None,
    ):
        self.heads = stacked or heads.stacked()
        self.targets = targets
        named = targets >= 0
        spread = weights.to(self.heads.layers[0][0].dtype).expand(targets.shape) * named  # [B, K]
        self.weights = spread.T.unsqueeze(-1)  # [K, B, 1]
        self.wanted = F.one_hot(targets.clamp_min(0), max(self.heads.sizes)).transpose(
            0, 1
        ) * named.T.unsqueeze(-1)  # [K, B, aspects]

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """E(a | z), [B], of z [B, D]."""
        log_probabilities = self.heads.log_probabilities(z)
        own = log_probabilities.gather(2, self.targets.clamp_min(0).T.unsqueeze(-1))  # [K, B, 1]
        return -(self.weights * own).sum((0, 2))

    def gradient(self, z: torch.Tensor) -> torch.Tensor:
        """dE/dz, [B, D]."""
        return self.heads.gradient(z, self.wanted, self.weights)

    def tensors(self) -> list[torch.Tensor]:
        """Weights, aspects and the heads' layers."""
        return [self.weights, self.wanted, *(part for layer in self.heads.layers for part in layer)]


def aspect_energy(
    heads: LatentHeads, targets: torch.Tensor, weights: torch.Tensor, stacked: StackedHeads | None = None
) -> AspectEnergy:
    """The energy function of a batch of targets; see `AspectEnergy`."""
    return AspectEnergy(heads, targets, weights, stacked)


def energy_gradient(energy: Energy, z: torch.Tensor) -> torch.Tensor:
    """dE_i/dz_i for every example, [B, D]; examples do not see each other, because E is one value per example.

    An energy that has a ``gradient`` of its own is asked for it; any other function of z is differentiated.
    """
    if isinstance(energy, EnergyWithGradient):
        return energy.gradient(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        total = energy(z).sum()
        return (
            torch.autograd.grad(total, z)[0] if total.requires_grad else torch.zeros_like(z)
        )  # no target names anything
