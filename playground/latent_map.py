"""A picture of one reply's latent: where the prior lies, which way the ODE went, and what the heads said along it."""

import base64
import io

import numpy as np
import torch
from matplotlib.figure import Figure

from miracle import Explanation, Miracle, Reply
from playground.views import safe

SAMPLES = 200
FIRST = 0.005  # the explanation's first pseudo-time after 0
COLOURS = ("#0a5084", "#b3541e", "#3d7a3a", "#7a3d78", "#8a6d00", "#3a7a78")


def prior_samples(model: Miracle, reply: Reply) -> np.ndarray:
    """Samples of the prior that a reply started from, [SAMPLES, D]; always the same ones."""
    prior = model.prior(reply)
    noise = torch.randn(SAMPLES, len(prior.mean), generator=torch.Generator().manual_seed(0)).to(
        prior.mean.device
    )
    return prior.sample(noise).cpu().numpy()


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [D], the first two principal axes [2, D], and the shares of variance that they explain [2]."""
    mean = points.mean(0)
    _, values, axes = np.linalg.svd(points - mean, full_matrices=False)
    return mean, axes[:2], (values**2 / (values**2).sum())[:2]


def draw_map(axes, samples: np.ndarray, path: np.ndarray) -> None:
    """The prior's cloud and the path over it, along the prior's first two principal axes."""
    mean, directions, explained = principal_axes(samples)
    cloud, way = (samples - mean) @ directions.T, (path - mean) @ directions.T
    axes.scatter(*cloud.T, s=9, color="#b9b5ab", linewidths=0, label=f"prior, {len(samples)} samples")
    axes.plot(*way.T, color=COLOURS[0], linewidth=1.6, label="path of the ODE")
    axes.scatter(*way[0], s=36, facecolor="white", edgecolor=COLOURS[0], zorder=3, label="start")
    axes.scatter(*way[-1], s=46, marker="D", color=COLOURS[1], zorder=3, label="end, the reply's latent")
    axes.set(xlabel=f"PC 1 ({explained[0]:.0%} of the prior's variance)", ylabel=f"PC 2 ({explained[1]:.0%})")
    axes.legend(frameon=False, fontsize=8, loc="best")


def draw_probabilities(axes, explanation: Explanation, target: dict[str, str]) -> None:
    """The latent heads' probabilities over pseudo-time: aspects asked for, dashed the likeliest of other attributes."""
    for number, (name, chances) in enumerate(explanation.probabilities.items()):
        aspect = target.get(name) or max(chances, key=lambda known: chances[known][-1])
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": "-" if name in target else "--"}
        axes.plot(
            explanation.time,
            chances[aspect],
            label=aspect if name in target else f"{aspect} (not asked for)",
            **style,
        )
    axes.set_xscale("symlog", linthresh=FIRST)  # strong weights decide nearly everything at the very start
    axes.set(
        xlabel="pseudo-time s of the ODE, logarithmic after 0.005",
        xlim=(0, explanation.time[-1]),
        ylabel="probability by the latent heads",
        ylim=(-0.02, 1.02),
    )
    axes.legend(frameon=False, fontsize=8, loc="best")


def latent_map(model: Miracle, reply: Reply) -> str:
    """The picture as HTML."""
    explanation, samples = model.explain(reply), prior_samples(model, reply)
    figure = Figure(figsize=(10, 4.4), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    draw_map(left, samples, explanation.path)
    draw_probabilities(right, explanation, reply.target)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    picture = base64.b64encode(stored.getvalue()).decode()
    words = (
        "Left: the prior's samples and the ODE's path from its start to the latent of the reply. "
        f"Right: probabilities along it; energy {reply.energy_start:.3g} to {reply.energy:.3g}."
    )
    return (
        f'<p class="note">The latent of the last reply: <q dir="auto">{safe(reply.text)}</q></p>'
        f'<div class="wide"><img class="map" alt="{safe(words)}" src="data:image/png;base64,{picture}"></div>'
    )
