"""model/schedule.py: the diffusion's beta and the KL weight."""

import pytest

from model.schedule import BETA_MAX, BETA_MIN, kl_weight, tau


def test_tau_is_half_the_integral_of_a_linear_beta():
    assert tau(0) == 0 and tau(1) == pytest.approx(5.025)
    steps = 1000
    betas = [BETA_MIN + (BETA_MAX - BETA_MIN) * (n + 0.5) / steps for n in range(steps // 2)]
    assert sum(betas) / 2 / steps == pytest.approx(tau(0.5))


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
