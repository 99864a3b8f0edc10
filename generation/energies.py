"""What draws latents to their targets, by the name that ``--energy`` gives it; a new energy is a function and a line in `ENERGIES`."""

from dataclasses import dataclass
from typing import Protocol

import torch

from model.energy import EnergyOf, aspect_energy
from model.gaussian import Gaussian
from model.heads import LatentHeads


@dataclass(frozen=True)
class Wanted:
    """What an energy may depend on, besides the latent.

    Attributes:
        heads: the trained latent heads.
        targets: [B, K] aspect indices, -1 where an attribute is not named.
        weights: the strength dials w_k, [K], or [B, K] where every request has its own.
        prior: the combined prior of each request, [B, D].
    """

    heads: LatentHeads
    targets: torch.Tensor
    weights: torch.Tensor
    prior: Gaussian


class EnergyMaker(Protocol):
    """Makes the energies of a list of requests."""

    def __call__(self, wanted: Wanted) -> EnergyOf:
        """What `wanted` asks for as a function: rows [n] -> the energy of those requests, one value per latent."""
        ...


def aspects(wanted: Wanted) -> EnergyOf:
    """The heads' negative log-probability of the aspects asked for, weighted (`model.energy`)."""
    stacked, weights = wanted.heads.stacked(), wanted.weights.expand(wanted.targets.shape)
    return lambda rows: aspect_energy(wanted.heads, wanted.targets[rows], weights[rows], stacked)


ENERGIES: dict[str, EnergyMaker] = {"aspects": aspects}
