"""model/prior.py: one Gaussian head per attribute, and their combination."""

import pytest
import torch

from model.gaussian import Gaussian
from model.prior import LatentPrior, combine, of_attribute


def heads(means, variances):
    """One example, one dimension, K heads."""
    return Gaussian(torch.tensor([means]).unsqueeze(-1), torch.tensor([variances]).log().unsqueeze(-1))


def combined(priors, named, combination):
    result = combine(priors, torch.tensor(named), combination)
    return result.mean, torch.exp(result.logvar)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_equal_heads_product_shrinks_the_variance_and_average_gives_the_head_back(k):
    torch.manual_seed(0)
    mean, logvar = torch.randn(4, 1, 6), torch.randn(4, 1, 6)
    priors, named = (
        Gaussian(mean.expand(-1, k, -1), logvar.expand(-1, k, -1)),
        torch.ones(4, k, dtype=torch.bool),
    )
    for combination, share in (("product", 1 / k), ("average", 1.0)):
        result = combine(priors, named, combination)
        torch.testing.assert_close(result.mean, mean[:, 0])
        torch.testing.assert_close(torch.exp(result.logvar), torch.exp(logvar[:, 0]) * share)


@pytest.mark.parametrize(("combination", "variance"), [("product", 1 / 3), ("average", 2 / 3)])
def test_unequal_heads_by_hand(combination, variance):
    mean, found = combined(heads([0.0, 3.0], [1.0, 0.5]), [[True, True]], combination)  # precisions 1 and 2
    torch.testing.assert_close(mean, torch.tensor([[2.0]]))
    torch.testing.assert_close(found, torch.tensor([[variance]]))


@pytest.mark.parametrize("combination", ["product", "average"])
def test_only_named_attributes_count(combination):
    priors = heads([0.0, 3.0, 50.0], [1.0, 0.5, 1e-3])
    pair = combined(heads([0.0, 3.0], [1.0, 0.5]), [[True, True]], combination)
    torch.testing.assert_close(combined(priors, [[True, True, False]], combination), pair)
    single = combined(priors, [[False, True, False]], combination)
    torch.testing.assert_close(single, (torch.tensor([[3.0]]), torch.tensor([[0.5]])))


@pytest.mark.parametrize("combination", ["product", "average"])
def test_a_target_that_names_nothing_takes_all_heads(combination):
    priors = heads([0.0, 3.0], [1.0, 0.5])
    torch.testing.assert_close(
        combined(priors, [[False, False]], combination), combined(priors, [[True, True]], combination)
    )


def test_rows_of_a_batch_combine_by_their_own_targets():
    torch.manual_seed(0)
    priors, named = (
        Gaussian(torch.randn(3, 2, 4), torch.randn(3, 2, 4)),
        torch.tensor([[True, False], [True, True], [False, False]]),
    )
    together = combine(priors, named, "product")
    for row in range(3):
        alone = combine(
            Gaussian(priors.mean[row : row + 1], priors.logvar[row : row + 1]),
            named[row : row + 1],
            "product",
        )
        torch.testing.assert_close(
            (together.mean[row], together.logvar[row]), (alone.mean[0], alone.logvar[0])
        )


def test_unknown_combination_is_refused():
    with pytest.raises(
        ValueError, match=r"prior combination must be one of \('product', 'average'\), got 'sum'"
    ):
        combine(heads([0.0], [1.0]), torch.tensor([[True]]), "sum")


def test_each_example_gets_the_prior_of_its_own_attribute():
    priors = Gaussian(torch.arange(12.0).view(3, 2, 2), -torch.arange(12.0).view(3, 2, 2))
    own = of_attribute(priors, torch.tensor([1, 0, 1]))
    assert own.mean.tolist() == [[2, 3], [4, 5], [10, 11]] and own.logvar.tolist() == [
        [-2, -3],
        [-4, -5],
        [-10, -11],
    ]


def test_heads_are_separate_unless_shared():
    torch.manual_seed(0)
    encoding = torch.randn(2, 5)
    separate, shared = (
        LatentPrior(5, 4, 3, shared=False)(encoding),
        LatentPrior(5, 4, 3, shared=True)(encoding),
    )
    assert separate.mean.shape == shared.mean.shape == separate.logvar.shape == (2, 3, 4)
    assert not torch.allclose(separate.mean[:, 0], separate.mean[:, 1]) and torch.equal(
        shared.mean[:, 0], shared.mean[:, 2]
    )


def test_an_example_trains_its_own_head_alone():
    prior = LatentPrior(5, 4, 3, shared=False)
    of_attribute(prior(torch.randn(2, 5)), torch.tensor([1, 1])).mean.sum().backward()
    touched = prior.project.weight.grad.view(3, 2 * 4, 5).abs().sum((1, 2)) > 0
    assert touched.tolist() == [False, True, False]
