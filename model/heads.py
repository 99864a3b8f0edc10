"""Latent heads: one classifier of z per attribute; their cross-entropy is a loss in training and the energy afterwards."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F


def latent_head(latent_size: int, n_aspects: int, width: int, layers: int) -> nn.Sequential:
    """An MLP from z to aspect logits; no hidden layers make it linear."""
    sizes = [latent_size] + [width] * layers
    hidden = [module for i, o in itertools.pairwise(sizes) for module in (nn.Linear(i, o), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_aspects))


class LatentHeads(nn.Module):
    """The heads of all attributes."""

    def __init__(self, latent_size: int, aspects: list[int], width: int, layers: int):
        super().__init__()
        self.heads = nn.ModuleList(latent_head(latent_size, n, width, layers) for n in aspects)

    def forward(self, z: torch.Tensor) -> list[torch.Tensor]:
        """Args: z [B, D]. Returns logits per attribute, [B, aspects of k]."""
        return [head(z) for head in self.heads]

    def stacked(self) -> "StackedHeads":
        """All heads as one, for many evaluations with fixed weights."""
        return StackedHeads(self)


class StackedHeads:
    """The heads' layers side by side, so that all attributes are evaluated, and differentiated, in one batched product.

    What `latent_head` builds is mirrored here in closed form: change both together (a test compares them). The weights
    are taken as they are at construction, without gradients.
    """

    def __init__(self, heads: LatentHeads):
        layers = [
            [module for module in head.children() if isinstance(module, nn.Linear)] for head in heads.heads
        ]
        self.sizes = [head[-1].out_features for head in layers]
        widest = max(self.sizes)
        self.layers: list[
            tuple[torch.Tensor, torch.Tensor]
        ] = []  # per layer: weights [K, out, in], biases [K, 1, out]
        for position in range(len(layers[0])):
            weights = [head[position].weight.detach() for head in layers]
            biases = [head[position].bias.detach() for head in layers]
            if (
                position == len(layers[0]) - 1
            ):  # attributes may have different numbers of aspects: the missing ones get no probability
                weights = [F.pad(weight, (0, 0, 0, widest - weight.shape[0])) for weight in weights]
                biases = [F.pad(bias, (0, widest - bias.shape[0]), value=-math.inf) for bias in biases]
            self.layers.append((torch.stack(weights), torch.stack(biases).unsqueeze(1)))

    def log_probabilities(self, z: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of every head's aspects [K, B, aspects], -inf beyond a head's own."""
        return self._forward(z)[0]

    def gradient(self, z: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """d/dz of sum_k w_k * (-log p_k(wanted)), [B, D].

        Args:
            z: [B, D].
            wanted: one-hot [K, B, aspects]; all 0 where an attribute is not named.
            weights: [K, B, 1], 0 where not named.
        """
        log_probabilities, slopes = self._forward(z)
        states = log_probabilities.exp_().sub_(wanted).mul_(weights)  # [K, B, aspects]
        for (weight, _), slope in zip(reversed(self.layers[1:]), reversed(slopes)):
            states = torch.bmm(states, weight).mul_(slope)
        count, size = len(self.sizes), z.shape[1]
        return (
            states.transpose(0, 1).reshape(z.shape[0], -1) @ self.layers[0][0].view(-1, size)
            if count > 1
            else states[0] @ self.layers[0][0][0]
        )

    def _forward(self, z: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Log-probabilities, and the slopes of GELU at every hidden layer's inputs."""
        states, slopes = z.unsqueeze(0).expand(len(self.sizes), -1, -1), []
        for weight, bias in self.layers[:-1]:
            inputs = torch.baddbmm(bias, states, weight.transpose(1, 2))
            share = (
                torch.erf(inputs * math.sqrt(0.5)).add_(1.0).mul_(0.5)
            )  # of the normal distribution below: GELU is inputs * share
            states = inputs * share
            slopes.append(
                inputs.square().mul_(-0.5).exp_().mul_(inputs).mul_(1 / math.sqrt(2 * math.pi)).add_(share)
            )
        weight, bias = self.layers[-1]
        return torch.log_softmax(torch.baddbmm(bias, states, weight.transpose(1, 2)), dim=-1), slopes
