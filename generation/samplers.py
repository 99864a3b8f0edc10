"""How latents are found, by the name that ``--algorithm`` gives it; a new sampler is a function and a line in `SAMPLERS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from common.errors import InputError
from generation.problem import Problem
from model.energy import Energy
from model.flow import sample_flow
from model.langevin import sample_langevin
from model.noise import generators
from model.sampler import Sample, sample_ode

if TYPE_CHECKING:
    from generation.options import ControlArguments


class Sampler(Protocol):
    """Finds the latents of a list of requests."""

    def __call__(self, problem: Problem, control: ControlArguments) -> Sample:
        """Latents for all requests, in order; a row depends on its own request alone."""
        ...


def ode(problem: Problem, control: ControlArguments) -> Sample:
    """The probability-flow ODE from each start (`model.sampler`)."""
    return sample_ode(control.sampler, problem.start, problem.prior, problem.make_energy)


def langevin(problem: Problem, control: ControlArguments) -> Sample:
    """Langevin dynamics from each start (`model.langevin`)."""
    seeds = control.seed if problem.seeds is None else problem.seeds
    sources = generators(seeds, problem.keys, "langevin")
    steps, size = control.langevin_steps, control.langevin_step_size
    return sample_langevin(problem.start, problem.prior, _energy(problem), sources, steps, size)


def flow(problem: Problem, control: ControlArguments) -> Sample:
    """The flow-matching prior's velocity field from each start (`model.flow`), for CVAEs trained with --flow_width."""
    if problem.flow is None or problem.weights is None:
        raise InputError(
            "--algorithm flow: this CVAE has no flow-matching prior; train one with --flow_width"
        )
    return sample_flow(
        problem.flow,
        problem.start,
        problem.prior,
        problem.targets,
        problem.weights,
        _energy(problem),
        control.tolerance,
    )


@torch.no_grad()
def none(problem: Problem, control: ControlArguments) -> Sample:
    """The start itself: no control."""
    value = _energy(problem)(problem.start)
    evaluations = torch.zeros(len(problem.keys), dtype=torch.long, device=problem.start.device)
    return Sample(problem.start, value, value, evaluations)


def _energy(problem: Problem) -> Energy:
    return problem.make_energy(torch.arange(len(problem.keys), device=problem.start.device))


SAMPLERS: dict[str, Sampler] = {"ode": ode, "langevin": langevin, "flow": flow, "none": none}
