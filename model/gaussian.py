"""Diagonal Gaussians over the latent space."""

from typing import NamedTuple

import torch

MIN_LOGVAR, MAX_LOGVAR = -12.0, 6.0  # keeps exp() and 1/var finite in fp32 whatever a head answers


class Gaussian(NamedTuple):
    """Diagonal Gaussians; `mean` and `logvar` have the same shape [..., D]."""

    mean: torch.Tensor
    logvar: torch.Tensor

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation, [..., D]."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """mean + std * noise; `noise` is standard normal, [..., D]."""
        return self.mean + self.std * noise


def gaussian_from_parameters(parameters: torch.Tensor) -> Gaussian:
    """Split [..., 2D] parameters into mean and clamped log-variance, in fp32."""
    mean, logvar = parameters.float().chunk(2, dim=-1)
    return Gaussian(mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR))


def kl_per_dimension(posterior: Gaussian, prior: Gaussian) -> torch.Tensor:
    """KL(posterior || prior) in nats per example and dimension, the shape of the means."""
    variance_ratio = torch.exp(posterior.logvar - prior.logvar)
    squared_shift = (posterior.mean - prior.mean) ** 2 * torch.exp(-prior.logvar)
    return 0.5 * (prior.logvar - posterior.logvar + variance_ratio + squared_shift - 1.0)
