"""What generation says of itself: warnings, the sampler's numbers, seconds."""

import time
from collections.abc import Mapping, Sequence

import torch

from dataset.encoding import Cut
from model.sampler import Sample

COLLAPSED_KL = 1.0  # nats per dialogue; naming one aspect of two takes ln 2 = 0.69
LEARNT = 0.25  # of the way from chance to certainty
CUT_SHARE = 0.1  # of replies that end at the token limit


def sampling_warnings(sample: Sample, tolerance: float) -> list[str]:
    """What the solver's own check says against the latents; empty where it holds or was not made."""
    warnings = []
    if sample.converged is not None and not sample.converged.all():
        lost = float((~sample.converged).float().mean())
        warnings.append(
            f"sampler: the ODE could not be followed to its end in {lost:.1%} of replies (steps too small or too many); lower --weights or raise --tolerance"
        )
    if sample.latent_change is None or sample.energy_change is None:
        return warnings
    for name, change in (("latent", sample.latent_change), ("energy", sample.energy_change)):
        over = float((~(change <= tolerance)).float().mean())
        if over > 0:
            warnings.append(
                f"sampler: halving the last step still changes the {name} by over {tolerance:.0%} in {over:.1%} of replies; raise --steps or --max-halvings"
            )
    return warnings


def posterior_warnings(metrics: dict) -> list[str]:
    """Says that the posterior has collapsed, from the metrics of the CVAE's training; empty where it has not, or where they do not say."""
    kl = metrics.get("kl_unclamped")
    if kl is None or kl >= COLLAPSED_KL:
        return []
    return [
        f"posterior: KL {kl:.2f} nats per dialogue on dev is under {COLLAPSED_KL:g}: the posterior has collapsed, and latents say little of a reply; lower --kl_weight or raise --free_bits"
    ]


def head_warnings(metrics: dict, aspects: Mapping[str, Sequence[str]]) -> list[str]:
    """Says that the latent heads have hardly learnt their aspects; empty where they have, or where the metrics do not say.

    Args:
        metrics: of the CVAE's training.
        aspects: attribute -> its aspects.
    """
    accuracy = metrics.get("head_accuracy")
    chance = sum(1 / len(names) for names in aspects.values()) / len(aspects)
    if accuracy is None or accuracy >= chance + LEARNT * (1 - chance):
        return []
    return [
        f"latent heads: accuracy {accuracy:.2f} on the latents of dev replies, chance is {chance:.2f}: control can do little; train for longer (--num_train_epochs, --min_steps)"
    ]


def length_warnings(tokens: list[int], limit: int) -> list[str]:
    """Says how many replies were cut at the longest length; empty where few were.

    Args:
        tokens: of each reply, as the decoder's tokenizer reads it again, which may find one less than were written.
        limit: ``max_new_tokens``.
    """
    cut = sum(count >= max(limit - 1, 1) for count in tokens)
    if not tokens or cut <= CUT_SHARE * len(tokens):
        return []
    return [
        f"length: {cut} of {len(tokens)} replies ({cut / len(tokens):.0%}, over {CUT_SHARE:.0%}) end at --max_new_tokens {limit} and may be cut; raise it"
    ]


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
