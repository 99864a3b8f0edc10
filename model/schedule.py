"""Two schedules as pure functions: the VP diffusion's, and the KL weight's."""

BETA_MIN, BETA_MAX = 0.1, 20.0  # Song et al. 2021, the values of LACE and of the paper


def tau(t: float) -> float:
    """Half the integral of beta from 0 to t; tau(1) = 5.025 is the pseudo-time of the whole ODE."""
    return 0.5 * (BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t * t)


KL_SCHEDULES = ("ramp", "cyclical", "constant")


def kl_weight(
    schedule: str, step: int, total_steps: int, maximum: float, ramp_fraction: float = 0.25, cycles: int = 4
) -> float:
    """The KL's weight at an optimizer step.

    ``ramp`` rises linearly over the first `ramp_fraction` of all steps and stays; ``cyclical`` (Fu et al., NAACL 2019)
    does so within each of `cycles` equal cycles; ``constant`` is `maximum` throughout.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in KL_SCHEDULES:
        raise ValueError(f"KL schedule must be one of {KL_SCHEDULES}, got {schedule!r}")
    progress = step / max(1, total_steps)
    if schedule == "cyclical":
        progress = (progress * cycles) % 1.0
    if schedule == "constant" or ramp_fraction <= 0:
        return maximum
    return maximum * min(1.0, progress / ramp_fraction)
