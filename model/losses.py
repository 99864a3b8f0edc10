"""The training loss, term by term, in the units that the log shows.

The loss is the sum over `TERMS` of each term times its weight (`weighted_sum`). A new term is a function and a line there;
``--term_weights <name>=0.1`` weighs it, and the log shows it by its name.

Means are taken over all processes, with gradients: every process computes the same global loss, its backward pass sums
the gradients of the copies, and the averaging of distributed data parallel divides that sum by their number.
"""

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed
from torch.nn import functional as F

from model.flow import VelocityField, flow_loss
from model.gaussian import Gaussian, kl_per_dimension


def _several() -> bool:
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, differentiable; the tensor itself where there is one process."""
    return _Sum.apply(value) if _several() else value


def sums_over_processes(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`sum_over_processes` of each, in one message: processes wait for one another at every one."""
    if not _several():
        return values
    parts = sum_over_processes(torch.cat([value.flatten() for value in values])).split(
        [value.numel() for value in values]
    )
    return tuple(part.view_as(value) for part, value in zip(parts, values))


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, value: torch.Tensor) -> torch.Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


def means_over_processes(*values: torch.Tensor) -> list[torch.Tensor]:
    """Mean over the first dimension of all processes' values, of each: [B, ...] -> [...]."""
    count = values[0].new_full((), float(values[0].shape[0]))
    *totals, count = sums_over_processes(*(value.sum(0) for value in values), count)
    return [total / count for total in totals]


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Mean over the first dimension of all processes' values: [B, ...] -> [...]."""
    return means_over_processes(values)[0]


def token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats of every token given those before it.

    Args:
        logits: [B, T, V], position t predicts ``ids[:, t + 1]``.
        ids: [B, T].

    Returns:
        [B, T - 1]; entry t belongs to token t + 1.
    """
    flat = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1)


def mean_over_tokens(losses: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean of the losses [B, T - 1] over the tokens chosen (bool [B, T], the first column does not count) in all processes."""
    weights = chosen[:, 1:].to(losses.dtype)
    total, count = sums_over_processes((losses * weights).sum(), weights.sum())
    return total / count.clamp_min(1.0)


def reconstruction_loss(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats per response token, mean over the real tokens of the batch (first term of eq. 4).

    Args:
        losses: `token_losses` of the decoder's input.
        labels: [B, T], -100 where there is no loss.
    """
    return mean_over_tokens(losses, labels != -100)


def context_loss(losses: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats per context token: plain language modelling of what the decoder reads before the response.

    Not in the paper, whose decoder is pre-trained; a decoder trained from scratch learns its language from two
    thirds more text. A context's first token counts for nothing, as what stands before it is padding or nothing. Arguments: as for `reconstruction_loss`, and the decoder's attention mask [B, T].
    """
    real = attention_mask != 0
    behind_another = real & F.pad(real[:, :-1], (1, 0))
    return mean_over_tokens(losses, behind_another & (labels == -100))


def kl_loss(posterior: Gaussian, prior: Gaussian, free_bits: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over dimensions of max(free_bits, batch mean of KL_d), and the same without free bits; nats per example.

    Args:
        posterior, prior: [B, D]; the prior is that of each example's own target (`model.prior.of_targets`).
    """
    per_dimension = mean_over_processes(kl_per_dimension(posterior, prior))  # [D]
    return per_dimension.clamp_min(free_bits).sum(), per_dimension.sum()


def means_over_examples(counted: torch.Tensor, *values: torch.Tensor) -> list[torch.Tensor]:
    """Mean of the values [B], of each, over the examples counted (bool [B]) in all processes; 0 where there are none."""
    weights = counted.to(values[0].dtype)
    *totals, count = sums_over_processes(*((value * weights).sum() for value in values), weights.sum())
    return [total / count.clamp_min(1.0) for total in totals]


def classification_loss(
    logits: list[torch.Tensor], targets: torch.Tensor, counted: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the latent heads of each example's own attributes (L_C of the paper), and those heads' accuracy.

    The paper's examples name one attribute each; of one that names several the cross-entropies add up, as the energy does.

    Args:
        logits: per attribute, [B, aspects].
        targets: [B, K] aspect indices, -1 where an attribute is not named.
        counted: bool [B], the examples that the heads learn from; None: all.

    Returns:
        Nats per example, and the mean over examples of the share of their named aspects that the heads predict.
    """
    losses, correct = torch.zeros_like(logits[0][:, 0]), torch.zeros_like(logits[0][:, 0])
    for scores, target in zip(logits, targets.unbind(1)):
        losses = losses + F.cross_entropy(scores, target, ignore_index=-1, reduction="none")
        correct = correct + ((target >= 0) & (scores.argmax(-1) == target)).to(correct.dtype)
    correct = correct / (targets >= 0).sum(1).clamp_min(1)
    values = (losses, correct.detach())
    loss, accuracy = (
        means_over_processes(*values) if counted is None else means_over_examples(counted, *values)
    )
    return loss, accuracy.detach()


def distance_loss(z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared distance between the attributes' batch means, over the pairs of attributes present (L_D).

    It pulls the attributes' regions together, so that one point can have an aspect of each. 0 where fewer than two
    attributes are present. An example that names several attributes is a point of each of their regions. Nothing is
    remembered from step to step; the published code keeps the last batch's means.

    Args:
        z: posterior samples, [B, D].
        targets: [B, K] aspect indices, -1 where an attribute is not named.
    """
    member = (targets >= 0).to(z.dtype)  # [B, K]
    totals, counts = sums_over_processes(member.T @ z, member.sum(0))
    means = totals / counts.clamp_min(1.0).unsqueeze(1)  # [K, D]
    squared = (means.unsqueeze(0) - means.unsqueeze(1)).pow(2).mean(-1)  # [K, K]
    present = counts > 0
    pairs = (present.unsqueeze(0) & present.unsqueeze(1)).triu(1)
    return (squared * pairs).sum() / pairs.sum().clamp_min(1)


@dataclass(frozen=True)
class LossInputs:
    """What a term may be computed from; B examples that may mix attributes.

    Attributes:
        token_losses: `token_losses` of the decoder's input, [B, T - 1].
        labels: [B, T], -100 where a token is not of the response.
        attention_mask: [B, T], of the decoder's input.
        reads_context: whether the columns are all that the decoder reads, the context's included, because their term has a
            weight; otherwise they are the last, which hold all responses.
        prior, posterior: [B, D]; the prior is that of each example's own target.
        z: the posterior's sample, [B, D].
        logits: of the latent heads on z, per attribute, [B, aspects].
        targets: [B, K] aspect indices, -1 where an example is not labelled for an attribute.
        classified: bool [B], the examples that the latent heads learn from; None: all.
        free_bits: nats per dimension that the KL term does not push below.
        flow: the flow-matching prior; None: there is none.
        decoded: z as the decoder read it, of examples that do not count too; None where these are no longer a model's outputs.
    """

    token_losses: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    reads_context: bool
    prior: Gaussian
    posterior: Gaussian
    z: torch.Tensor
    logits: list[torch.Tensor]
    targets: torch.Tensor
    classified: torch.Tensor | None
    free_bits: float
    flow: VelocityField | None = None
    decoded: torch.Tensor | None = None

    @property
    def differentiable(self) -> list[torch.Tensor]:
        """The tensors through which gradients go back to the weights."""
        gaussians = [self.prior.mean, self.prior.logvar, self.posterior.mean, self.posterior.logvar]
        return [self.token_losses, *gaussians, self.z, *self.logits]

    def replace(self, tensors: list[torch.Tensor]) -> "LossInputs":
        """The same with others for `differentiable`."""
        losses, *gaussians, z = tensors[:6]
        return dataclasses.replace(
            self,
            token_losses=losses,
            prior=Gaussian(*gaussians[:2]),
            posterior=Gaussian(*gaussians[2:]),
            z=z,
            logits=tensors[6:],
            decoded=None,
        )

    def first(self, rows: int) -> "LossInputs":
        """Of the first so many examples."""
        return dataclasses.replace(
            self,
            token_losses=self.token_losses[:rows],
            labels=self.labels[:rows],
            attention_mask=self.attention_mask[:rows],
            prior=Gaussian(self.prior.mean[:rows], self.prior.logvar[:rows]),
            posterior=Gaussian(self.posterior.mean[:rows], self.posterior.logvar[:rows]),
            z=self.z[:rows],
            logits=[logits[:rows] for logits in self.logits],
            targets=self.targets[:rows],
            classified=None if self.classified is None else self.classified[:rows],
        )


class LossTerm(Protocol):
    """A term of the loss."""

    def __call__(self, given: LossInputs) -> dict[str, torch.Tensor]:
        """The term under its name in `TERMS`, and what is logged beside it, not minimised, under other names; scalars.

        Nothing may be read back from the device, so that a training step can be recorded as a CUDA graph.
        """
        ...


def _reconstruction(given: LossInputs) -> dict[str, torch.Tensor]:
    """In nats per response token."""
    return {"reconstruction": reconstruction_loss(given.token_losses, given.labels)}


def _kl(given: LossInputs) -> dict[str, torch.Tensor]:
    """In nats per example; beside it, without free bits, and the mean standard deviations, of which the prior's collapses first."""
    kl, unclamped = kl_loss(given.posterior, given.prior, given.free_bits)
    prior, posterior = means_over_processes(given.prior.std.detach(), given.posterior.std.detach())
    return {"kl": kl, "kl_unclamped": unclamped, "prior_std": prior.mean(), "posterior_std": posterior.mean()}


def _classification(given: LossInputs) -> dict[str, torch.Tensor]:
    """In nats per example; beside it, the share of aspects that the latent heads predict from posterior samples."""
    loss, accuracy = classification_loss(given.logits, given.targets, given.classified)
    return {"classification": loss, "head_accuracy": accuracy}


def _distance(given: LossInputs) -> dict[str, torch.Tensor]:
    """In squared units of z."""
    return {"distance": distance_loss(given.z, given.targets)}


def _context(given: LossInputs) -> dict[str, torch.Tensor]:
    """In nats per context token; 0 where it has no weight, because its logits are the largest tensor of a step."""
    if not given.reads_context:
        return {"context": given.token_losses.new_zeros(())}
    return {"context": context_loss(given.token_losses, given.attention_mask, given.labels)}


def _flow(given: LossInputs) -> dict[str, torch.Tensor]:
    """In squared units of u per dimension; its gradient is the velocity field's alone. 0 where there is none."""
    if given.flow is None:
        return {"flow": given.token_losses.new_zeros(())}
    u = (given.z - given.prior.mean) / given.prior.std
    return {"flow": mean_over_processes(flow_loss(given.flow, u, given.targets))}


TERMS: dict[str, LossTerm] = {
    "reconstruction": _reconstruction,
    "kl": _kl,
    "classification": _classification,
    "distance": _distance,
    "context": _context,
    "flow": _flow,
}
Weight = float | torch.Tensor


class LossWeights:
    """What the terms are multiplied by, by their names in `TERMS`: reconstruction 1, any other that is not named 0.

    Args:
        free_bits: see `LossInputs`.
        prior_combination: how the priors of an example's attributes become one where it names several (`model.prior.combine`).

    Raises:
        ValueError: for a name that no term has.
    """

    def __init__(self, free_bits: float = 0.0, *, prior_combination: str = "average", **weights: Weight):
        if unknown := sorted(set(weights) - set(TERMS)):
            raise ValueError(f"no such term of the loss: {', '.join(unknown)}; there are {', '.join(TERMS)}")
        self.free_bits, self.prior_combination = free_bits, prior_combination
        self.weights: dict[str, Weight] = {"reconstruction": 1.0, **weights}

    def __getitem__(self, name: str) -> Weight:
        return self.weights.get(name, 0.0)

    def replace(self, **weights: Weight) -> "LossWeights":
        """The same with other weights for some terms."""
        return LossWeights(
            self.free_bits, prior_combination=self.prior_combination, **(self.weights | weights)
        )


def weighted_sum(given: LossInputs, weights: LossWeights) -> dict[str, torch.Tensor]:
    """The loss that is minimised, as ``loss``, then all terms and what they log beside, by name; scalars."""
    loss = given.token_losses.new_zeros(())
    terms: dict[str, torch.Tensor] = {}
    for name, term in TERMS.items():
        terms |= term(given)
        loss = loss + weights[name] * terms[name]
    return {"loss": loss, **terms}
