"""A sample of the latents' trajectories through the ODE, small enough to keep: what the report draws."""

import numpy as np
import torch

from generation.generator import ReplyGenerator
from generation.options import ControlArguments
from generation.problem import trajectory_times
from generation.requests import Request

CONTEXTS = 24
POINTS = 16  # of every trajectory, besides its start
PRIOR_SAMPLES = 480


def trace(
    generator: ReplyGenerator, requests: list[Request], control: ControlArguments, batch_size: int
) -> dict:
    """Where latents start and end, and how energy and probabilities go along the trajectory.

    Args:
        requests: those of `CONTEXTS` contexts, evenly spread, are traced.

    Returns:
        ``{"attributes", "axes": {"explained"}, "prior": [[x, y]], "points": [{"target", "start", "end"}], "time",
        "energy": {"mean", "low", "high"}, "probability": {attribute: the same}}``. x and y are the first two principal
        components of samples from the requests' priors; time is the pseudo-time s, 0 = prior; energies in nats times
        weights; low and high are the 5th and 95th percentile over the requests.
    """
    contexts = list(dict.fromkeys(request.context for request in requests))
    kept = {
        contexts[i * len(contexts) // min(CONTEXTS, len(contexts))]
        for i in range(min(CONTEXTS, len(contexts)))
    }
    from sklearn.decomposition import PCA  # takes a second to import, and most commands draw nothing

    chosen = [request for request in requests if request.context in kept]
    problem = generator.problem(chosen, control, batch_size)
    path, energies = problem.trajectory(control.sampler, POINTS)

    noise = torch.randn(
        PRIOR_SAMPLES, path.shape[2], generator=torch.Generator().manual_seed(control.seed)
    ).to(path.device)
    rows = torch.arange(PRIOR_SAMPLES, device=path.device) % len(chosen)
    samples = problem.prior.mean[rows] + problem.prior.std[rows] * noise
    plane = PCA(n_components=2).fit(samples.cpu().numpy())
    start, end = (plane.transform(path[i].cpu().numpy()) for i in (0, -1))
    with torch.no_grad():
        chances = _probabilities(generator, path, problem.targets)
    return {
        "attributes": generator.config.attributes,
        "axes": {"explained": [float(share) for share in plane.explained_variance_ratio_]},
        "prior": _rounded(plane.transform(samples.cpu().numpy())),
        "points": [
            {"target": r.target, "start": a, "end": b}
            for r, a, b in zip(chosen, _rounded(start), _rounded(end))
        ],
        "time": trajectory_times(POINTS),
        "energy": _band(energies.cpu().numpy()),
        "probability": {
            name: _band(values) for name, values in chances.items() if not np.isnan(values).all()
        },
    }


def _probabilities(
    generator: ReplyGenerator, path: torch.Tensor, targets: torch.Tensor
) -> dict[str, np.ndarray]:
    """By attribute, the heads' probability of the aspect asked for, [points + 1, B]; NaN where none is named."""
    by_attribute = {}
    for k, name in enumerate(generator.names):
        values = []
        for z in path:
            probabilities = torch.softmax(generator.model.heads(z)[k].float(), dim=-1)
            own = probabilities.gather(1, targets[:, k : k + 1].clamp_min(0)).squeeze(1)
            values.append(
                torch.where(targets[:, k] >= 0, own, torch.full_like(own, float("nan"))).cpu().numpy()
            )
        by_attribute[name] = np.stack(values)
    return by_attribute


def _band(values: np.ndarray) -> dict[str, list[float]]:
    """Mean and 5th and 95th percentile over the requests at every point of the trajectory."""
    low, high = np.nanpercentile(values, [5, 95], axis=1)
    return {"mean": np.nanmean(values, axis=1).tolist(), "low": low.tolist(), "high": high.tolist()}


def _rounded(points: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in point] for point in points]
