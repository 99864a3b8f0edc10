"""The solver's attempt, recorded once and kept, takes every later problem to where the plain solver takes it."""

import threading

import pytest
import torch

from model import rowwise, sampler
from model.energy import aspect_energy
from model.gaussian import Gaussian
from model.heads import LatentHeads
from model.rowwise import solve_recorded
from model.sampler import SamplerSettings, sample_ode


class Again:
    """A function that runs the work again stands for a graph: both know their own tensors alone."""

    def __init__(self):
        self.made = 0

    def __call__(self, work):
        self.made += 1
        return work


@pytest.fixture
def again(monkeypatch):
    """Problems are solved by recorded attempts, none of which are left from before."""
    record = Again()
    monkeypatch.setattr(rowwise._kept, "by_shape", {})
    monkeypatch.setattr(
        sampler, "solve_rowwise",
        lambda drift_of, state, stops, tolerance, graphs: solve_recorded(drift_of, state, stops, tolerance, record=record),
    )  # fmt: skip
    return record


def problem(seed: int, rows: int, weight: float = 50.0):
    """A start, a prior and an energy of heads of their own, in fp64."""
    torch.manual_seed(seed)
    heads = LatentHeads(8, [2, 3], 16, 1).double().requires_grad_(False)
    prior = Gaussian(torch.randn(rows, 8).double(), torch.randn(rows, 8).double())
    targets, weights = torch.randint(-1, 2, (rows, 2)), weight * torch.rand(rows, 2).double()
    return prior.mean.clone(), prior, lambda chosen: aspect_energy(heads, targets[chosen], weights[chosen])


SETTINGS = SamplerSettings(geometry="whitened", solver="rowwise")


def solved(settings=SETTINGS, **words):
    start, prior, energy = problem(**words)
    return sample_ode(settings, start, prior, energy)


def test_later_problems_of_a_rounded_shape_use_the_first_one_s(monkeypatch, again):
    wanted = [{"seed": 0, "rows": 5}, {"seed": 1, "rows": 7}, {"seed": 2, "rows": 8, "weight": 400.0}, {"seed": 0, "rows": 5}]  # fmt: skip
    found = [solved(**words) for words in wanted]
    assert again.made == 1  # 5, 7 and 8 are 8
    monkeypatch.undo()
    for words, sample in zip(wanted, found):
        plain = solved(**words)
        torch.testing.assert_close(sample.z, plain.z, atol=1e-9, rtol=1e-9)
        assert torch.equal(sample.nfe, plain.nfe) and sample.converged.all()
        assert (sample.energy < sample.energy_start).any()


def test_other_shapes_geometries_and_threads_have_their_own(again):
    solved(seed=0, rows=3)
    solved(seed=0, rows=9)
    assert again.made == 2
    solved(SamplerSettings(geometry="standard", solver="rowwise"), seed=0, rows=3)
    solved(SamplerSettings(geometry="whitened", energy_time="tweedie", solver="rowwise"), seed=0, rows=3)
    solved(SamplerSettings(geometry="whitened", tolerance=1e-4, solver="rowwise"), seed=0, rows=3)
    assert again.made == 5
    solved(seed=4, rows=4)
    assert again.made == 5
    rowwise._kept.by_shape.clear()
    thread = threading.Thread(target=solved, kwargs={"seed": 0, "rows": 3})
    thread.start()
    thread.join()
    assert not rowwise._kept.by_shape


def test_few_recorded_attempts_are_kept(again, monkeypatch):
    monkeypatch.setattr(rowwise, "MOST_KEPT", 2)
    for rows in (1, 2, 3, 5):
        solved(seed=0, rows=rows)
    assert again.made == 4 and len(rowwise._kept.by_shape) == 2


def test_what_cannot_be_kept_is_left_to_the_plain_solver():
    def drift_of(rows):
        return lambda time, state: -state

    assert solve_recorded(drift_of, torch.ones(3, 2), [1.0], 1e-3, record=Again()) is None
    start, prior, energy = problem(0, 3)

    def of_energy(rows):
        return sampler._Drift(SETTINGS, Gaussian(prior.mean[rows], prior.logvar[rows]), energy(rows))

    assert solve_recorded(of_energy, start, [1.0], 1e-3, record=lambda work: None) is None
