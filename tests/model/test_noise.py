"""model/noise.py: noise that depends on what it is for and on nothing else."""

import pytest
import torch

from model.noise import generator, generators, normal, uniform

KEYS = [("0", "plain"), ("1", "plain"), ("0", "lyrical")]


def test_same_key_gives_the_same_noise_in_any_order_and_batch():
    together = normal(generators(7, KEYS, "start"), 5)
    reversed_ = normal(generators(7, KEYS[::-1], "start"), 5)
    assert torch.equal(together, reversed_.flip(0))
    assert torch.equal(together[1:2], normal(generators(7, KEYS[1:2], "start"), 5))


@pytest.mark.parametrize(
    "key",
    [
        (8, "0", "plain", "start"),
        (7, "1", "plain", "start"),
        (7, "0", "lyrical", "start"),
        (7, "0", "plain", "text"),
    ],
)
def test_every_part_of_the_key_matters(key):
    assert not torch.equal(
        torch.randn(4, generator=generator(*key)),
        torch.randn(4, generator=generator(7, "0", "plain", "start")),
    )


def test_parts_of_the_key_do_not_run_together():
    assert generator(1, "12", "3", "x").initial_seed() != generator(1, "1", "23", "x").initial_seed()
    assert generator(11, "2", "3", "x").initial_seed() != generator(1, "12", "3", "x").initial_seed()


def test_seeds_are_the_same_in_every_process_and_version():
    """Python's own hash() differs from process to process; this number must not."""
    assert generator(0, "0", "plain", "start").initial_seed() == 3075277222944758652


def test_moments_and_range():
    sources = generators(0, [(str(n), "") for n in range(200)], "test")
    values, shares = normal(sources, 100), uniform(sources, 100)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
    assert (
        shares.min() >= 0
        and shares.max() < 1
        and abs(shares.mean() - 0.5) < 0.01
        and shares.shape == (200, 100)
    )


def test_a_source_moves_on():
    source = generators(0, KEYS[:1], "test")
    assert not torch.equal(normal(source, 4), normal(source, 4))
