"""Noise that depends on what it is for and on nothing else: not on the order, the batch or the device."""

import hashlib
from collections.abc import Sequence

import torch


def generator(seed: int, example_id: str, target: str, purpose: str) -> torch.Generator:
    """A CPU generator seeded by (seed, example id, target, purpose)."""
    key = "\x1f".join((str(seed), example_id, target, purpose)).encode()
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.Generator().manual_seed(state)


def generators(seed: int | Sequence[int], keys: list[tuple[str, str]], purpose: str) -> list[torch.Generator]:
    """One generator per (example id, target); `seed` may be one for each."""
    seeds = [seed] * len(keys) if isinstance(seed, int) else seed
    return [generator(own, *key, purpose) for own, key in zip(seeds, keys, strict=True)]


def normal(sources: list[torch.Generator], size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Standard normal noise, one row per generator: [B, size]."""
    return torch.stack([torch.randn(size, generator=source) for source in sources]).to(device)


def uniform(sources: list[torch.Generator], size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Uniform noise in [0, 1), one row per generator: [B, size]."""
    return torch.stack([torch.rand(size, generator=source) for source in sources]).to(device)
