"""The energy of aspects in latent space: E(a | z) = sum_k w_k * (-log softmax(head_k(z))[a_k]).

Positive = worse. p(z | c, a) is proportional to p(z | c) exp(-E(a | z)) (section 3.3 of the paper; LACE, eq. 4). The
published code subtracts a [B] from a [B, 1] tensor, which multiplies every gradient by the batch size (128 as run);
here energies stay [B], so that published behaviour corresponds to weights near 128.
"""

from collections.abc import Callable

import torch

from model.heads import LatentHeads

Energy = Callable[[torch.Tensor], torch.Tensor]  # z [B, D] -> E [B]


def aspect_energy(heads: LatentHeads, targets: torch.Tensor, weights: torch.Tensor) -> Energy:
    """The energy function of a batch of targets.

    Args:
        targets: [B, K] aspect indices, -1 where an attribute is not named.
        weights: [B, K] or [K], the strength dials w_k.
    """

    def energy(z: torch.Tensor) -> torch.Tensor:
        values = (weights * heads.negative_log_probability(z, targets)).sum(1)
        assert values.shape == z.shape[:1], values.shape
        return values

    return energy


def energy_gradient(energy: Energy, z: torch.Tensor) -> torch.Tensor:
    """dE_i/dz_i for every example, [B, D]; examples do not see each other, because E is one value per example."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        total = energy(z).sum()
        return torch.autograd.grad(total, z)[0] if total.requires_grad else torch.zeros_like(z)  # no target names anything
