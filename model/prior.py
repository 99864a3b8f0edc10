"""The latent prior p(z | c, attribute) and the combination of several attributes' priors."""

import torch
from torch import nn

from model.gaussian import Gaussian, gaussian_from_parameters

COMBINATIONS = ("product", "average")


class LatentPrior(nn.Module):
    """Gaussian heads on the context encoding: one per attribute, or a single one shared by all (as published)."""

    def __init__(self, hidden_size: int, latent_size: int, n_attributes: int, shared: bool):
        super().__init__()
        self.n_attributes, self.shared = n_attributes, shared
        self.n_heads = 1 if shared else n_attributes
        self.project = nn.Linear(hidden_size, self.n_heads * 2 * latent_size)

    def forward(self, encoding: torch.Tensor) -> Gaussian:
        """Args: encoding [B, H]. Returns the Gaussians of every attribute, [B, K, D]; with a shared head K equal ones."""
        parameters = self.project(encoding).unflatten(-1, (self.n_heads, -1))
        mean, logvar = gaussian_from_parameters(parameters.expand(-1, self.n_attributes, -1))
        return Gaussian(mean, logvar)


def of_attribute(priors: Gaussian, attribute: torch.Tensor) -> Gaussian:
    """The prior of each example's own attribute: priors [B, K, D], attribute [B] -> [B, D]."""
    rows = torch.arange(attribute.shape[0], device=attribute.device)
    return Gaussian(priors.mean[rows, attribute], priors.logvar[rows, attribute])


def of_targets(priors: Gaussian, targets: torch.Tensor, combination: str) -> Gaussian:
    """The prior of each example's own target: its attribute's where it names one, their combination where it names several.

    Args:
        priors: [B, K, D].
        targets: [B, K] aspect indices, -1 where an attribute is not named; every row names one or more.
        combination: see `combine`.

    Returns:
        [B, D].
    """
    named = targets >= 0
    own, several = of_attribute(priors, named.long().argmax(1)), combine(priors, named, combination)
    alone = named.sum(1, keepdim=True) == 1
    return Gaussian(*(torch.where(alone, one, all_) for one, all_ in zip(own, several)))


def combine(priors: Gaussian, named: torch.Tensor, combination: str) -> Gaussian:
    """One prior from those of the attributes that a target names.

    ``product``: precisions add and means are weighted by precision, so K equal heads shrink the variance K-fold (the
    context counts K times). ``average``: the same with the summed precision divided by K, so K equal heads give that
    head back. Neither is in the paper, whose single prior needs no combination.

    Args:
        priors: [B, K, D].
        named: [B, K], True where the target names the attribute; a row that names none takes all of them.

    Returns:
        [B, D].

    Raises:
        ValueError: for an unknown combination.
    """
    if combination not in COMBINATIONS:
        raise ValueError(f"prior combination must be one of {COMBINATIONS}, got {combination!r}")
    weights = (
        torch.where(named.any(1, keepdim=True), named, torch.ones_like(named)).unsqueeze(-1).float()
    )  # [B, K, 1]
    precisions = weights * torch.exp(-priors.logvar)
    total = precisions.sum(1)
    mean = (precisions * priors.mean).sum(1) / total
    if combination == "average":
        total = total / weights.sum(1)
    return Gaussian(mean, -torch.log(total))
