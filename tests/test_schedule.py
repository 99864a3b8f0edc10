"""model/schedule.py: the diffusion's beta and the KL weight."""

import math

import pytest

from model.schedule import alpha, beta, kl_weight, tau


def test_beta_is_linear_and_its_half_integral_is_5_025():
    assert beta(0) == 0.1 and beta(1) == 20.0 and beta(0.5) == pytest.approx(10.05)
    assert tau(0) == 0 and tau(1) == pytest.approx(5.025)
    steps = 1000
    assert sum(beta((n + 0.5) / steps) / 2 / steps for n in range(steps // 2)) == pytest.approx(tau(0.5))


def test_alpha_is_the_share_of_the_clean_latent():
    assert alpha(0) == 1 and alpha(1) == pytest.approx(math.exp(-5.025))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (125, 0.25), (250, 0.5), (251, 0.5), (500, 0.5), (1000, 0.5)],
)
def test_ramp_rises_over_the_first_part_and_stays(step, expected):
    assert kl_weight("ramp", step, 1000, maximum=0.5, ramp_fraction=0.25) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (25, 0.1), (50, 0.2), (99, 0.2), (100, 0.0), (125, 0.1), (350, 0.2), (399, 0.2)],
)
def test_cyclical_starts_anew_in_every_cycle(step, expected):
    assert kl_weight("cyclical", step, 400, maximum=0.2, ramp_fraction=0.5, cycles=4) == pytest.approx(
        expected
    )


def test_constant_and_no_ramp():
    assert {kl_weight("constant", step, 10, 0.3) for step in (0, 5, 10)} == {0.3}
    assert kl_weight("ramp", 0, 10, 0.3, ramp_fraction=0.0) == 0.3


def test_unknown_schedule_is_refused():
    with pytest.raises(
        ValueError, match=r"KL schedule must be one of \('ramp', 'cyclical', 'constant'\), got 'beta'"
    ):
        kl_weight("beta", 0, 10, 1.0)
