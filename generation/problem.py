"""What the sampler solves, and the trajectories that it takes."""

from dataclasses import dataclass

import torch

from model.energy import EnergyOf
from model.flow import VelocityField
from model.gaussian import Gaussian
from model.sampler import PSEUDO_TIME, SamplerSettings, follow

TRAJECTORY_GRADING = (
    2.0  # points of a trajectory that is looked at lie closer at the start, where it is steep
)


@dataclass(frozen=True)
class Problem:
    """What the sampler solves for a list of requests.

    Attributes:
        start: z at t = 1, [B, D].
        prior: the combined prior of each request, [B, D].
        make_energy: rows [n] -> the `Energy` of those requests.
        targets: aspect index per attribute, [B, K], -1 where none is named.
        keys: what seeds each request's noise, beside `seeds`.
        weights: [K], the strength dials; None where nobody set them.
        flow: the flow-matching prior of the CVAE; None where it has none.
        seeds: of each request; None: that of the settings for all.
    """

    start: torch.Tensor
    prior: Gaussian
    make_energy: EnergyOf
    targets: torch.Tensor
    keys: list[tuple[str, str]]
    weights: torch.Tensor | None = None
    flow: VelocityField | None = None
    seeds: list[int] | None = None

    def trajectory(self, settings: SamplerSettings, points: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents' trajectories through the ODE, to be looked at, whatever solver found their ends.

        Args:
            settings: geometry and energy over time.
            points: of every trajectory, besides its start; they lie at `trajectory_times`.

        Returns:
            (latents [points + 1, B, D], energies [points + 1, B]).
        """
        path = follow(settings, self.start, self.prior, self.make_energy, trajectory_times(points)[1:])
        path = torch.cat([self.start.unsqueeze(0), path])
        energy = self.make_energy(torch.arange(len(self.keys), device=self.start.device))
        with torch.no_grad():
            return path, torch.stack([energy(z) for z in path])


def trajectory_times(points: int) -> list[float]:
    """The pseudo-times of `Problem.trajectory`'s points: 0 = prior, 5.025 = end."""
    return [PSEUDO_TIME * (i / points) ** TRAJECTORY_GRADING for i in range(points + 1)]
