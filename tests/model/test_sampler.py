"""model/sampler.py: closed-form solutions for linear and logistic energies, refinement, independence of the batch."""

import math

import pytest
import torch

from generation.record import sampling_warnings
from model import sampler
from model.energy import aspect_energy
from model.gaussian import Gaussian
from model.heads import LatentHeads
from model.sampler import PSEUDO_TIME, SamplerSettings, follow, integrate, sample_ode
from model.schedule import tau

SOLVERS = ("rowwise", "rk4", "midpoint", "euler", "dopri5")
EVALUATIONS = {"rk4": 4, "midpoint": 2, "euler": 1}  # of the drift per step


def settings_of(**settings) -> SamplerSettings:
    """Steps of one length, whose error has a known order, unless a test says otherwise."""
    return SamplerSettings(**{"grading": 1.0} | settings)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return Gaussian(torch.randn(3, 4), torch.log(0.2 + 0.5 * torch.rand(3, 4)))


@pytest.fixture
def start(prior):
    return prior.sample(torch.randn(3, 4))


def linear(slopes):
    """E = g.z per row, for `sample_ode`."""
    return lambda rows: lambda z: (slopes[rows] * z).sum(1)


def logistic(directions, weights):
    """E = w * -log sigmoid(d.z) per row: an aspect's energy with a linear head of two aspects."""
    return lambda rows: lambda z: weights[rows] * torch.nn.functional.softplus(-(directions[rows] * z).sum(1))


def solve(start, prior, make_energy, **settings):
    """By rk4 where nothing else is said."""
    return sample_ode(settings_of(**{"solver": "rk4"} | settings), start, prior, make_energy)


def closed_form(geometry, energy_time, start, prior, g):
    """Where a linear energy g.z ends, in float64."""
    start, mean, variance, g = (x.double() for x in (start, prior.mean, torch.exp(prior.logvar), g))
    time = 5.025
    if geometry == "standard":
        return start - time * g
    if geometry == "whitened":  # u moves by -5.025 s g or -(1 - alpha_1) s g, and z by s times that
        return start - (time if energy_time == "static" else 1 - math.exp(-time)) * variance * g
    rate, pull = (variance - 1) / variance, mean / variance - g  # normal: dz/ds = rate z + pull
    return torch.exp(rate * time) * start + pull * torch.expm1(rate * time) / rate


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("geometry", "energy_time"),
    [("standard", "static"), ("whitened", "static"), ("whitened", "tweedie"), ("normal", "static")],
)
def test_linear_energy_ends_at_the_closed_form(solver, geometry, energy_time, prior, start):
    g = torch.randn(3, 4)
    steps, tolerance = {
        "rk4": (50, 1e-4),
        "midpoint": (200, 1e-3),
        "euler": (800, 5e-3),
        "dopri5": (1, 1e-4),
        "rowwise": (1, 1e-2),
    }[solver]
    sample = solve(
        start,
        prior,
        linear(g),
        geometry=geometry,
        energy_time=energy_time,
        solver=solver,
        steps=steps,
        max_halvings=0,
    )
    expected = closed_form(geometry, energy_time, start, prior, g)
    torch.testing.assert_close(sample.z.double(), expected, atol=tolerance, rtol=tolerance)
    assert not sample.z.requires_grad


def test_whitened_shifts_in_units_of_the_prior(prior):
    g = torch.randn(3, 4)
    for energy_time, time in (("static", 5.025), ("tweedie", 1 - math.exp(-tau(1.0)))):
        sample = solve(prior.mean, prior, linear(g), energy_time=energy_time)
        shift = (sample.z - prior.mean) / prior.std  # of u
        torch.testing.assert_close(shift, -time * prior.std * g, atol=1e-4, rtol=1e-4)


def test_normal_without_energy_ends_at_mean_over_one_minus_variance(prior, start):
    sample = solve(start, prior, linear(torch.zeros(3, 4)), geometry="normal", steps=200)
    variance = torch.exp(prior.logvar)
    torch.testing.assert_close(
        sample.z, prior.mean / (1 - variance), atol=0.1, rtol=0.1
    )  # exp(-5.025 (1 - var) / var) is left
    narrow = Gaussian(prior.mean, torch.full((3, 4), math.log(0.2)))
    torch.testing.assert_close(
        solve(start, narrow, linear(torch.zeros(3, 4)), geometry="normal", steps=200).z, prior.mean / 0.8
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("geometry", ["standard", "whitened"])
def test_weight_zero_returns_the_start(solver, geometry, prior, start):
    heads, targets = LatentHeads(4, [2, 3], 16, 2), torch.tensor([[0, 2], [1, -1], [-1, 1]])
    sample = solve(
        start,
        prior,
        lambda rows: aspect_energy(heads, targets[rows], torch.zeros(2)),
        solver=solver,
        geometry=geometry,
    )
    torch.testing.assert_close(sample.z, start, atol=1e-6, rtol=1e-6)
    assert sample.energy.tolist() == sample.energy_start.tolist() == [0, 0, 0]


def test_unnamed_example_stays_where_it_starts_in_company_and_alone(prior, start):
    heads, targets = LatentHeads(4, [2, 3], 16, 2), torch.tensor([[0, 2], [-1, -1], [1, -1]])
    for rows in (torch.arange(3), torch.tensor([1])):
        part = Gaussian(prior.mean[rows], prior.logvar[rows])
        sample = solve(
            start[rows],
            part,
            lambda r: aspect_energy(heads, targets[rows[r]], torch.full((2,), 5.0)),
            steps=4,
        )
        moved = (sample.z - start[rows]).norm(dim=1)
        assert moved[rows == 1] < 1e-6 and (moved[rows != 1] > 0.1).all()


@pytest.mark.parametrize("solver", EVALUATIONS)
def test_n_steps_are_n_steps(solver, prior, start):
    """In fp32, 5.025 / (5.025 / 6) comes out a little over 6, and a seventh step of no length is one too many."""
    energy, counts = linear(torch.ones(3, 4))(torch.arange(3)), (1, 6, 12, 16, 24, 32, 40, 57)
    found = [integrate(settings_of(solver=solver), start, prior, energy, steps)[1] for steps in counts]
    assert found == [steps * EVALUATIONS[solver] for steps in counts]


def test_a_way_has_its_points_at_their_times(prior, start):
    g = torch.randn(3, 4)
    path = follow(
        settings_of(geometry="standard"),
        start,
        prior,
        linear(g),
        [PSEUDO_TIME * i / 4 for i in range(1, 5)],
    )
    expected = torch.stack([start - share * 5.025 * g for share in (0.25, 0.5, 0.75, 1)])
    torch.testing.assert_close(path, expected, atol=1e-5, rtol=1e-5)
    assert PSEUDO_TIME == pytest.approx(5.025)


def test_tweedie_path_runs_from_noise_to_data(prior, start):
    """The energy's share alpha_t grows from exp(-5.025) to 1 on the way, so that most of the shift comes late."""
    g = torch.randn(3, 4)
    path = follow(
        settings_of(energy_time="tweedie", tolerance=1e-5),
        start,
        prior,
        linear(g),
        [PSEUDO_TIME * i / 4 for i in range(1, 5)],
    )
    shares = [math.exp(5.025 * (point / 4 - 1)) - math.exp(-5.025) for point in range(1, 5)]
    expected = torch.stack([start - share * torch.exp(prior.logvar) * g for share in shares])
    torch.testing.assert_close(path, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("geometry", "energy_time", "pull"),
    [
        ("standard", "static", lambda variance: torch.full_like(variance, 5.025)),
        ("whitened", "static", lambda variance: 5.025 * variance),
        (
            "whitened",
            "tweedie",
            lambda variance: variance * (1 - math.exp(-2 * 5.025)) / 2,
        ),  # integral of alpha_t squared
    ],
)
def test_quadratic_energy_ends_at_the_closed_form(geometry, energy_time, pull, prior, start):
    """E = |z - mean|^2 / 2 draws z to the mean by exp(-pull)."""
    sample = solve(
        start,
        prior,
        lambda rows: lambda z: 0.5 * (z - prior.mean[rows]).pow(2).sum(1),
        geometry=geometry,
        energy_time=energy_time,
        steps=128,
    )
    expected = prior.mean + (start - prior.mean) * torch.exp(-pull(torch.exp(prior.logvar)))
    torch.testing.assert_close(sample.z, expected, atol=1e-4, rtol=1e-4)


# --- a stiff example beside easy ones ----------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.5, 128.0, 4.0])


def exact_logistic(start, prior, directions, weights, steps=60):
    """Static whitened flow of w softplus(-m), m = d.z: m + e^m grows linearly in pseudo-time; by bisection, float64."""
    start, d, variance, w = (x.double() for x in (start, directions, torch.exp(prior.logvar), weights))
    m0, reach = (d * start).sum(1), (variance * d * d).sum(1)
    goal = m0 + torch.exp(m0) + w * reach * 5.025
    low, high = m0.clone(), m0 + w * reach * 5.025
    for _ in range(steps):
        middle = (low + high) / 2
        below = middle + torch.exp(middle) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return start + variance * d * ((low - m0) / reach).unsqueeze(1)


@pytest.fixture
def directions():
    return torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.5, 1.0, -1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])


def test_stiff_example_is_refined_until_it_is_right(prior, start, directions):
    sample = solve(start, prior, logistic(directions, WEIGHTS), max_halvings=6, halving_tolerance=0.01)
    expected = exact_logistic(start, prior, directions, WEIGHTS)
    torch.testing.assert_close(sample.z.double(), expected, atol=0.01, rtol=0.01)
    assert (sample.latent_change <= 0.01).all() and (sample.energy < sample.energy_start).all()
    easy = EVALUATIONS["rk4"] * (16 + 32)
    assert sample.nfe[0] == easy and sample.nfe[1] > easy  # only the stiff one pays for its refinement


def test_overshoot_looks_like_success_and_is_reported(prior, start, directions):
    """At weight 128 the coarse step leaps over the answer to a lower energy; the change under halving tells."""
    coarse = solve(start, prior, logistic(directions, WEIGHTS), max_halvings=0)
    fine = solve(start, prior, logistic(directions, WEIGHTS), max_halvings=6)
    length = [(sample.z - start).norm(dim=1)[1] for sample in (coarse, fine)]
    assert length[0] > 1.5 * length[1] and coarse.energy[1] < fine.energy[1]
    assert coarse.latent_change[1] > 0.01 >= fine.latent_change[1] and coarse.latent_change[0] <= 0.01


def test_no_halvings_takes_the_step_as_it_is(prior, start, directions):
    energy = logistic(directions, WEIGHTS)
    sample = solve(start, prior, energy, max_halvings=0)
    coarse, _ = integrate(settings_of(solver="rk4"), start, prior, energy(torch.arange(3)), 16)
    fine, _ = integrate(settings_of(solver="rk4"), start, prior, energy(torch.arange(3)), 32)
    torch.testing.assert_close(sample.z, coarse)
    torch.testing.assert_close(sample.latent_change, (fine - coarse).norm(dim=1) / fine.norm(dim=1))
    assert sample.nfe.tolist() == [EVALUATIONS["rk4"] * (16 + 32)] * 3


def test_energies_are_those_of_start_and_end(prior, start, directions):
    energy = logistic(directions, WEIGHTS)
    for solver in ("rk4", "dopri5"):
        sample = solve(start, prior, energy, solver=solver)
        torch.testing.assert_close(sample.energy_start, energy(torch.arange(3))(start))
        torch.testing.assert_close(sample.energy, energy(torch.arange(3))(sample.z))


def test_too_few_halvings_are_reported_as_unsettled(prior, start, directions):
    sample = solve(start, prior, logistic(directions, WEIGHTS), steps=4, max_halvings=1)
    assert (
        sample.latent_change[1] > 0.01 and sample.energy_change[1] < 0.01
    )  # far out the energy is flat: it tells nothing


def mixed_heads():
    """Eleven examples of MLP heads, weights from 0 to 128 in one batch."""
    torch.manual_seed(1)
    heads = LatentHeads(8, [2, 3], 16, 2)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.mul_(2.0)
    prior = Gaussian(torch.randn(11, 8), torch.log(0.2 + torch.rand(11, 8)))
    targets = torch.tensor(
        [[0, 2], [1, -1], [-1, 0], [1, 1], [0, -1], [0, 0], [1, 2], [-1, 1], [1, 1], [0, 1], [1, 0]]
    )
    weights = torch.tensor([1.0, 128.0, 10.0, 0.0, 2.0, 64.0, 128.0, 0.1, 5.0, 1.0, 30.0])
    make_energy = lambda rows: aspect_energy(heads, targets[rows], weights[rows].unsqueeze(1))  # noqa: E731
    return prior.sample(torch.randn(11, 8)), prior, make_energy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "rowwise"},
        {"geometry": "standard", "solver": "midpoint"},
        {"energy_time": "tweedie", "solver": "euler"},
    ],
)
def test_latents_do_not_depend_on_the_batch(options):
    start, prior, make_energy = mixed_heads()
    options = {"steps": 8, "max_halvings": 4} | options
    together = solve(start, prior, make_energy, **options)
    assert together.nfe.unique().numel() > 1  # easy and stiff examples were refined differently
    for rows in ([0], [1], [3], [10, 6, 2, 0]):
        rows = torch.tensor(rows)
        part = solve(
            start[rows],
            Gaussian(prior.mean[rows], prior.logvar[rows]),
            lambda r: make_energy(rows[r]),
            **options,
        )
        torch.testing.assert_close(part.z, together.z[rows], atol=1e-4, rtol=1e-4)
        assert part.nfe.tolist() == together.nfe[rows].tolist()


def test_refined_latents_are_close_to_the_adaptive_reference():
    start, prior, make_energy = mixed_heads()
    start, prior = start[:3], Gaussian(prior.mean[:3], prior.logvar[:3])  # weights 1, 128 and 10
    refined = solve(start, prior, make_energy, max_halvings=6, halving_tolerance=0.005)
    reference = solve(start, prior, make_energy, solver="dopri5")
    assert (refined.latent_change <= 0.005).all() and (refined.energy < refined.energy_start).all()
    assert ((refined.z - reference.z).norm(dim=1) <= 0.01 * reference.z.norm(dim=1)).all()
    assert (
        reference.latent_change is None and reference.nfe.unique().numel() > 1
    )  # one by one: each its own steps


@pytest.mark.parametrize("geometry", ["standard", "whitened"])
def test_rowwise_is_as_good_as_its_tolerance_and_cheaper_than_halving(geometry):
    """Against dopri5 at 1e-5, weights from 0 to 128: the errors of the steps add up to a small multiple of one."""
    start, prior, make_energy = mixed_heads()
    reference = solve(start, prior, make_energy, solver="dopri5", geometry=geometry)
    distance, cost = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        sample = solve(start, prior, make_energy, solver="rowwise", tolerance=tolerance, geometry=geometry)
        distance.append(((sample.z - reference.z).norm(dim=1) / reference.z.norm(dim=1)).max())
        cost.append(sample.nfe.float().mean())
        assert sample.converged.all() and sample.latent_change is None
    assert distance[1] < 0.01 and distance[2] < 0.002 < distance[0] and cost[0] < cost[1] < cost[2]
    assert (
        cost[1] < 0.5 * solve(start, prior, make_energy, max_halvings=6, geometry=geometry).nfe.float().mean()
    )


def test_rowwise_arrives_in_chunks_as_it_does_at_once(monkeypatch):
    start, prior, make_energy = mixed_heads()
    whole = solve(start, prior, make_energy, solver="rowwise")
    monkeypatch.setitem(sampler.CHUNK, "cpu", 4)
    parts = solve(start, prior, make_energy, solver="rowwise")
    torch.testing.assert_close(parts.z, whole.z, atol=1e-4, rtol=1e-4)
    assert parts.nfe.tolist() == whole.nfe.tolist()


def test_rowwise_gives_up_what_cannot_be_followed_and_says_so(prior, start):
    """A drift that is not finite from the start on: the example stays, does not converge, and the others arrive."""
    g = torch.randn(3, 4)
    whole = solve(start, prior, linear(g), solver="rowwise")
    g[1] = float("nan")
    broken = solve(start, prior, linear(g), solver="rowwise")
    assert torch.equal(whole.z[[0, 2]], broken.z[[0, 2]]) and broken.converged.tolist() == [True, False, True]
    torch.testing.assert_close(broken.z[1], start[1])
    assert "could not be followed to its end in 33.3% of replies" in sampling_warnings(broken, 0.01)[
        0
    ] and not sampling_warnings(whole, 0.01)


def test_adaptive_solver_runs_examples_alone():
    start, prior, make_energy = mixed_heads()
    together, rows = solve(start, prior, make_energy, solver="dopri5"), torch.tensor([7])
    alone = solve(
        start[rows],
        Gaussian(prior.mean[rows], prior.logvar[rows]),
        lambda r: make_energy(rows[r]),
        solver="dopri5",
    )
    torch.testing.assert_close(together.z[rows], alone.z, atol=1e-6, rtol=1e-6)
    assert together.nfe[7] == alone.nfe[0]


def test_example_that_breaks_leaves_the_others_alone(prior, start):
    g = torch.randn(3, 4)
    whole = solve(start, prior, linear(g))
    g[1] = float("nan")
    broken = solve(start, prior, linear(g))
    assert (
        torch.equal(whole.z[[0, 2]], broken.z[[0, 2]])
        and broken.z[1].isnan().all()
        and broken.latent_change[1].isnan()
    )


def test_overflow_of_a_coarse_step_is_refined_away(prior, start):
    """E = 50 |z|^2 explodes to NaN at eight steps; a NaN counts as unsettled, and at 256 steps the flow is stable."""
    sample = solve(
        start,
        prior,
        lambda rows: lambda z: 50 * (z - 1).pow(2).sum(1),
        geometry="standard",
        steps=8,
        max_halvings=6,
    )
    torch.testing.assert_close(sample.z, torch.ones(3, 4))
    assert (sample.latent_change <= 0.01).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"geometry": "flat"}, r"geometry must be one of \('standard', 'whitened', 'normal'\), got 'flat'"),
        ({"energy_time": "late"}, r"energy_time must be one of \('static', 'tweedie'\), got 'late'"),
        (
            {"solver": "rk5"},
            r"solver must be one of \('rowwise', 'rk4', 'midpoint', 'euler', 'dopri5'\), got 'rk5'",
        ),
        ({"tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0.0"),
        ({"steps": 0}, "steps must be at least 1 and max_halvings at least 0, got 0 and 4"),
        ({"max_halvings": -1}, "got 16 and -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**settings)


def test_graded_steps_resolve_a_steep_start_that_equal_steps_overshoot():
    """A strong energy is steep at the start and flat later: the same number of steps, short ones first, comes nearer."""
    torch.manual_seed(0)
    heads = LatentHeads(4, [2], width=16, layers=0)
    with torch.no_grad():
        heads.heads[0][0].weight.mul_(20)
    prior = Gaussian(torch.zeros(3, 4), torch.zeros(3, 4))
    start, targets = torch.randn(3, 4), torch.zeros(3, 1, dtype=torch.long)
    energy = aspect_energy(heads, targets, torch.tensor([1000.0]))
    exact, _ = integrate(settings_of(solver="dopri5", atol=1e-7, rtol=1e-7), start, prior, energy, 1)
    error = {
        g: (integrate(settings_of(solver="rk4", grading=g), start, prior, energy, 64)[0] - exact).norm()
        for g in (1.0, 4.0)
    }
    assert error[4.0] < 0.1 * error[1.0]
