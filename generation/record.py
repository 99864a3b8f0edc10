"""What generation says of itself: warnings, the sampler's numbers, seconds."""

import time

import torch

from dataset.encoding import Cut
from model.sampler import Sample


def sampling_warnings(sample: Sample, tolerance: float) -> list[str]:
    """What the solver's own check says against the latents; empty where it holds or was not made."""
    found = []
    if sample.converged is not None and not sample.converged.all():
        lost = float((~sample.converged).float().mean())
        found.append(
            f"sampler: the ODE could not be followed to its end in {lost:.1%} of replies (steps too small or too many); lower --weights or raise --tolerance"
        )
    if sample.latent_change is None or sample.energy_change is None:
        return found
    for name, change in (("latent", sample.latent_change), ("energy", sample.energy_change)):
        over = float((~(change <= tolerance)).float().mean())
        if over > 0:
            found.append(
                f"sampler: halving the last step still changes the {name} by over {tolerance:.0%} in {over:.1%} of replies; raise --steps or --max-halvings"
            )
    return found


def context_warnings(cut: list[Cut | None]) -> list[str]:
    """Says how many contexts were read in part; empty where none was."""
    some = [one for one in cut if one is not None]
    if not some:
        return []
    return [
        f"context: {len(some)} of {len(cut)} replies were written without the beginning of their context: the decoder reads {some[0].room} tokens of it, so that every reply has room"
    ]


def sampling_record(sample: Sample) -> dict:
    """What the results say about the sampler: cost, energies and the solver's own check."""

    def mean(values: torch.Tensor | None) -> float | None:
        return None if values is None else float(values.float().mean())

    return {
        "nfe": mean(sample.nfe),
        "energy_start": mean(sample.energy_start),
        "energy": mean(sample.energy),
        "settled": mean(sample.converged),
        "halving_latent_change": mean(sample.latent_change),
        "halving_energy_change": mean(sample.energy_change),
    }


def timed(seconds: dict[str, float], name: str, work, *args, **kwargs):
    """Run `work`, note its wall-clock seconds under `name`, and return what it returns."""
    started = time.monotonic()
    value = work(*args, **kwargs)
    seconds[name] = round(time.monotonic() - started, 2)
    return value
