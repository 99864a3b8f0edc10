"""Latent heads: one classifier of z per attribute; their cross-entropy is a loss in training and the energy afterwards."""

import torch
from torch import nn
from torch.nn import functional as F


def latent_head(latent_size: int, n_aspects: int, width: int, layers: int) -> nn.Sequential:
    """An MLP from z to aspect logits; no hidden layers make it linear."""
    sizes = [latent_size] + [width] * layers
    hidden = [module for i, o in zip(sizes, sizes[1:]) for module in (nn.Linear(i, o), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_aspects))


class LatentHeads(nn.Module):
    """The heads of all attributes."""

    def __init__(self, latent_size: int, aspects: list[int], width: int = 128, layers: int = 2):
        super().__init__()
        self.heads = nn.ModuleList(latent_head(latent_size, n, width, layers) for n in aspects)

    def forward(self, z: torch.Tensor) -> list[torch.Tensor]:
        """Args: z [B, D]. Returns logits per attribute, [B, aspects of k]."""
        return [head(z) for head in self.heads]

    def negative_log_probability(self, z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-log softmax(head_k(z))[a_k] in nats.

        Args:
            z: [B, D].
            targets: [B, K] aspect indices, -1 where an attribute is not named.

        Returns:
            [B, K], 0 where not named.
        """
        columns = []
        for k, head in enumerate(self.heads):
            target = targets[:, k]
            if bool((target < 0).all()):
                columns.append(z.new_zeros(z.shape[0]))
            else:
                columns.append(F.cross_entropy(head(z), target, ignore_index=-1, reduction="none"))
        return torch.stack(columns, dim=1)
