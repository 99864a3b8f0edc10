"""The ODE sampler: from the prior to latents that have the aspects asked for.

The probability-flow ODE of a VP diffusion runs from t = 1 to 0 (section 3.3 of the paper; LACE, eq. 9). It is
integrated here over pseudo-time s = tau(1) - tau(t) in [0, 5.025], where ds = -beta(t)/2 dt, which takes beta out of
the drift and makes uniform steps harmless at t = 1, where beta is 20. With an energy E, positive = worse:

- ``standard`` (as published): the prior is taken for N(0, I), whose score cancels the drift, so dz/ds = -grad E(z).
- ``whitened``: the same in u with z = mean + std * u, where the prior of u is N(0, I) at every t. `energy_time`
  ``static`` uses E(mean + std * u); ``tweedie`` uses E(mean + std * alpha_t * u), the energy at the expected clean
  latent, which is exact for a linear energy.
- ``normal`` (published variant): dz/ds = ((var - 1) z + mean) / var - grad E(z), with the score of t = 0 at every t. Even
  without an energy it ends at mean / (1 - var) instead of in the prior; kept for reproduction.

The default solver, ``rowwise``, is adaptive with a step of its own for every example (`model.rowwise`), so that a result
does not depend on its batch. The others are torchdiffeq's. With a fixed step, a stiff example (strong weights, wide
prior, sharp heads) overshoots, and overshooting lowers the energy, so it looks like success: each example's step is
therefore halved until halving changes its latent by less than a tolerance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torchdiffeq import odeint

from model.energy import Energy, EnergyOf, EnergyWithGradient, energy_gradient
from model.gaussian import Gaussian
from model.rowwise import solve_rowwise
from model.schedule import tau

GEOMETRIES = ("standard", "whitened", "normal")
ENERGY_TIMES = ("static", "tweedie")
FIXED_STEP_SOLVERS = ("rk4", "midpoint", "euler")
SOLVERS = ("rowwise", *FIXED_STEP_SOLVERS, "dopri5")
CHUNK = {
    "cpu": 256,
    "cuda": 16384,
}  # examples that ``rowwise`` solves at once: what fits a CPU's cache, a GPU's memory
PSEUDO_TIME = tau(1.0)


@dataclass(frozen=True)
class SamplerSettings:
    """How the ODE is set up and solved.

    Attributes:
        geometry, energy_time: see the module's text; `energy_time` matters to ``whitened`` alone.
        solver: ``rowwise``, adaptive; ``rk4``, ``midpoint``, ``euler`` with `steps` steps in pseudo-time; or ``dopri5``,
            the adaptive reference, run one example at a time because its step would otherwise be shared over the batch.
        tolerance: of ``rowwise``: error of a step, relative and absolute.
        grading: step i of N ends at pseudo-time 5.025 (i / N) ** grading; over 1, steps are short at the start, where a
            strong energy is steep, and long at the end, where it is flat.
        max_halvings: how often an example's step may be halved; 0 takes the step as it is and only reports.
        halving_tolerance: relative change of latent under halving that ends it.
        atol, rtol: of ``dopri5``.
    """

    geometry: str = "whitened"
    energy_time: str = "static"
    solver: str = "rowwise"
    tolerance: float = 1e-3
    steps: int = 16
    grading: float = 3.0
    max_halvings: int = 4
    halving_tolerance: float = 0.01
    atol: float = 1e-5
    rtol: float = 1e-5

    def __post_init__(self):
        for name, valid in (("geometry", GEOMETRIES), ("energy_time", ENERGY_TIMES), ("solver", SOLVERS)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} must be one of {valid}, got {getattr(self, name)!r}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}")
        if not self.grading > 0:
            raise ValueError(f"grading must be over 0, got {self.grading}")
        if self.steps < 1 or self.max_halvings < 0:
            raise ValueError(
                f"steps must be at least 1 and max_halvings at least 0, got {self.steps} and {self.max_halvings}"
            )


@dataclass(frozen=True)
class Sample:
    """Latents and what they cost.

    Attributes:
        z: [B, D].
        energy_start, energy: E before and after, [B], nats times weights.
        nfe: evaluations of the drift per example, [B], all refinements and the last check included.
        latent_change: relative change of z when the final step was halved, [B]; None for the adaptive solvers.
        energy_change: change of E in that halving, relative to E or to 1 nat where E is smaller, [B].
        converged: False where the adaptive solver gave an example up, [B]; None for the others.
        reference: the prior's mean, [B, D]: latents without control, for guidance in decoding; None where nobody set it.
    """

    z: torch.Tensor
    energy_start: torch.Tensor
    energy: torch.Tensor
    nfe: torch.Tensor
    latent_change: torch.Tensor | None = None
    energy_change: torch.Tensor | None = None
    converged: torch.Tensor | None = None
    reference: torch.Tensor | None = None

    def take(self, rows: list[int]) -> "Sample":
        """Some of the latents, in the order given."""
        return self._each(lambda part: part[rows])

    def part(self, begin: int, end: int) -> "Sample":
        """Latents that lie one behind the other, not copied."""
        return self._each(lambda part: part[begin:end])

    def cpu(self) -> "Sample":
        """All of them on the CPU."""
        return self._each(torch.Tensor.cpu)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Sample":
        parts: dict[str, Any] = {
            name: None if part is None else change(part) for name, part in vars(self).items()
        }
        return Sample(**parts)


class _Drift:
    """The right-hand side in the geometry's own coordinates: z itself, or u for ``whitened``."""

    def __init__(self, settings: SamplerSettings, prior: Gaussian, energy: Energy):
        self.settings, self.prior, self.energy = settings, prior, energy
        self.std, self.evaluations = prior.std, 0
        self.kind = type(energy), settings.geometry, settings.energy_time

    def tensors(self) -> list[torch.Tensor]:
        """All that it reads besides times and states."""
        assert isinstance(self.energy, EnergyWithGradient)
        return [*self.prior, self.std, *self.energy.tensors()]

    def to_coordinates(self, z: torch.Tensor) -> torch.Tensor:
        return (z - self.prior.mean) / self.std if self.settings.geometry == "whitened" else z

    def to_latents(self, state: torch.Tensor) -> torch.Tensor:
        return self.prior.sample(state) if self.settings.geometry == "whitened" else state

    def __call__(self, s: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The change of the state over pseudo-time at s, one for all or one each, [B, 1], of states [B, D]."""
        self.evaluations += 1
        prior, geometry = self.prior, self.settings.geometry
        if geometry == "whitened":
            scale = (
                self.std if self.settings.energy_time == "static" else self.std * torch.exp(s - PSEUDO_TIME)
            )  # times alpha_t
            return -scale * energy_gradient(self.energy, torch.addcmul(prior.mean, scale, state))
        gradient = energy_gradient(self.energy, state)
        if geometry == "standard":
            return -gradient
        variance = torch.exp(prior.logvar)
        return ((variance - 1.0) * state + prior.mean) / variance - gradient


def integrate(
    settings: SamplerSettings, start: torch.Tensor, prior: Gaussian, energy: Energy, steps: int
) -> tuple[torch.Tensor, int]:
    """Solve the ODE once by a solver of torchdiffeq, in `steps` steps if their number is fixed.

    Args:
        start: z at t = 1, [B, D].

    Returns:
        (z at t = 0 [B, D], evaluations of the drift per example).
    """
    drift = _Drift(settings, prior, energy)

    def grid(*_) -> torch.Tensor:
        return (
            PSEUDO_TIME
            * torch.linspace(0.0, 1.0, steps + 1, dtype=start.dtype, device=start.device) ** settings.grading
        )

    if settings.solver == "dopri5":
        options = {"method": "dopri5", "atol": settings.atol, "rtol": settings.rtol}
        if start.device.type == "mps":  # has no float64, in which torchdiffeq would keep the time
            options["options"] = {"dtype": torch.float32}
    else:
        options = {
            "method": settings.solver,
            "options": {"grid_constructor": grid},
        }  # a step_size may round to one step more
    with torch.no_grad():
        end = odeint(drift, drift.to_coordinates(start), grid()[[0, -1]], **options)[-1]
        return drift.to_latents(end), drift.evaluations


def sample_ode(
    settings: SamplerSettings, start: torch.Tensor, prior: Gaussian, make_energy: EnergyOf
) -> Sample:
    """Move latents from the prior to where their target's energy is low.

    Args:
        start: z at t = 1, [B, D] in fp32: the prior's mean or a sample of it.
        prior: the combined prior of each example, [B, D].
        make_energy: rows [n] -> the `Energy` of those examples, so that a part of the batch can be solved alone.

    Returns:
        A `Sample`; with a fixed-step solver each row depends on nothing but itself.
    """
    everyone = torch.arange(start.shape[0], device=start.device)
    if settings.solver == "rowwise":
        return _rowwise(settings, start, prior, make_energy, everyone)
    if settings.solver == "dopri5":
        return _one_by_one(settings, start, prior, make_energy, everyone)
    energy = make_energy(everyone)
    with torch.no_grad():
        energy_start = energy(start)

    coarse, cost = integrate(settings, start, prior, energy, settings.steps)
    result = coarse.clone()
    nfe = torch.full((start.shape[0],), cost, device=start.device)
    latent_change, energy_change = torch.zeros_like(energy_start), torch.zeros_like(energy_start)
    rows, steps = everyone, settings.steps
    for _halving in range(max(1, settings.max_halvings)):
        steps *= 2
        part = Gaussian(prior.mean[rows], prior.logvar[rows])
        energy = make_energy(rows)
        fine, cost = integrate(settings, start[rows], part, energy, steps)
        nfe[rows] += cost
        with torch.no_grad():
            change = (fine - coarse).norm(dim=1) / fine.norm(dim=1).clamp_min(1e-6)
            before, after = energy(coarse), energy(fine)
        latent_change[rows] = change
        energy_change[rows] = (after - before).abs() / after.abs().clamp_min(1.0)
        if settings.max_halvings:
            result[rows] = fine
        unsettled = ~(change <= settings.halving_tolerance)  # a NaN is unsettled
        rows, coarse = rows[unsettled], fine[unsettled]
        if rows.numel() == 0:
            break
    with torch.no_grad():
        final = make_energy(everyone)(result)
    return Sample(result, energy_start, final, nfe, latent_change, energy_change)


def follow(
    settings: SamplerSettings, start: torch.Tensor, prior: Gaussian, make_energy: EnergyOf, times: list[float]
) -> torch.Tensor:
    """The latents' trajectories: where they are at each of these pseudo-times, rising and over 0, [times, B, D] (by ``rowwise``)."""
    path, _, _ = _walk(
        settings, start, prior, make_energy, torch.arange(start.shape[0], device=start.device), times
    )
    return path


def _walk(
    settings: SamplerSettings,
    start: torch.Tensor,
    prior: Gaussian,
    make_energy: EnergyOf,
    rows: torch.Tensor,
    times: list[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents at the times, evaluations and whether they converged, of some rows."""

    def drift_of(chosen: torch.Tensor) -> _Drift:
        return _Drift(
            settings,
            Gaussian(prior.mean[rows[chosen]], prior.logvar[rows[chosen]]),
            make_energy(rows[chosen]),
        )

    whole = drift_of(torch.arange(rows.numel(), device=rows.device))
    with torch.no_grad():
        solution = solve_rowwise(
            drift_of,
            whole.to_coordinates(start[rows]),
            times,
            settings.tolerance,
            graphs=isinstance(whole.energy, EnergyWithGradient),
        )
    return (
        torch.stack([whole.to_latents(state) for state in solution.states]),
        solution.nfe,
        solution.converged,
    )


def _rowwise(
    settings: SamplerSettings,
    start: torch.Tensor,
    prior: Gaussian,
    make_energy: EnergyOf,
    everyone: torch.Tensor,
) -> Sample:
    parts = [
        _walk(settings, start, prior, make_energy, rows, [PSEUDO_TIME])
        for rows in everyone.split(CHUNK.get(start.device.type, CHUNK["cuda"]))
    ]
    paths, costs, converged = zip(*parts)
    z, energy = torch.cat([path[-1] for path in paths]), make_energy(everyone)
    with torch.no_grad():
        return Sample(z, energy(start), energy(z), torch.cat(costs), converged=torch.cat(converged))


def _one_by_one(
    settings: SamplerSettings,
    start: torch.Tensor,
    prior: Gaussian,
    make_energy: EnergyOf,
    everyone: torch.Tensor,
) -> Sample:
    latents, costs = [], []
    for row in everyone.split(1):
        z, cost = integrate(
            settings,
            start[row],
            Gaussian(prior.mean[row], prior.logvar[row]),
            make_energy(row),
            settings.steps,
        )
        latents.append(z)
        costs.append(cost)
    z, energy = torch.cat(latents), make_energy(everyone)
    with torch.no_grad():
        return Sample(z, energy(start), energy(z), torch.tensor(costs, device=z.device))
