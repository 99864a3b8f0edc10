"""model/losses.py: every term by hand, and over two processes."""

import math
import os

import pytest
import torch
import torch.multiprocessing
from torch.nn import functional as F

from model import losses
from model.gaussian import Gaussian
from model.losses import (
    LossWeights,
    classification_loss,
    context_loss,
    distance_loss,
    kl_loss,
    mean_over_processes,
    token_losses,
    weighted_sum,
)
from model.losses import reconstruction_loss as reconstruction_of_losses


def reconstruction_loss(logits, labels):
    """From logits, as the model computes it; ids without a label may be anything."""
    return reconstruction_of_losses(token_losses(logits, labels.clamp_min(0)), labels)


def test_context_loss_covers_the_real_tokens_without_a_label():
    logits = torch.zeros(1, 6, 10)
    logits[0, 0, 4] = 1e4  # the second token is certain
    ids = torch.tensor([[3, 4, 5, 6, 7, 0]])
    labels = torch.tensor([[-100, -100, -100, 6, 7, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    losses = token_losses(logits, ids)
    assert losses.shape == (1, 5)
    torch.testing.assert_close(
        context_loss(losses, mask, labels), torch.tensor(math.log(10) / 2)
    )  # tokens 4 and 5, not the pad
    torch.testing.assert_close(reconstruction_of_losses(losses, labels), torch.tensor(math.log(10)))


def test_context_loss_does_not_depend_on_padding():
    """A first token has nothing in front of it, whether padding stands there or not."""
    torch.manual_seed(0)
    ids, logits = torch.randint(10, (1, 5)), torch.randn(1, 5, 10)
    labels, mask = torch.tensor([[-100, -100, -100, 6, 7]]), torch.ones(1, 5, dtype=torch.long)
    alone = context_loss(token_losses(logits, ids), mask, labels)
    padded = [torch.cat([torch.full((1, 2), value), tensor], 1) for value, tensor in ((0, ids), (0, mask), (-100, labels))]  # fmt: skip
    behind = token_losses(torch.cat([torch.randn(1, 2, 10), logits], 1), padded[0])
    torch.testing.assert_close(context_loss(behind, *padded[1:]), alone)


def test_terms_of_no_example_are_zero_and_of_some_are_theirs(make_miracle, batch):
    """A process that has no example of a step computes along; what it adds is nothing, with gradients of zero."""
    model, weights = make_miracle(), LossWeights(0.0, kl=1.0, classification=1.0, distance=1.0, context=1.0)
    noise = torch.randn(5, 8)
    nothing = model(**batch, weights=weights, noise=noise, rows=0)
    assert nothing["reconstruction"] == 0 and nothing["context"] == 0 and nothing["distance"] == 0
    given = model.loss_inputs(**batch, weights=weights, noise=noise)
    again = given.replace(given.differentiable)
    assert weighted_sum(again, weights)["loss"] == weighted_sum(given, weights)["loss"]
    two = {key: value[:2] if torch.is_tensor(value) else value for key, value in batch.items()}
    some, theirs = (
        model(**batch, weights=weights, noise=noise, rows=2),
        model(**two, weights=weights, noise=noise[:2]),
    )
    for name in ("loss", "reconstruction", "kl", "classification", "distance"):
        torch.testing.assert_close(some[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_reconstruction_is_nats_per_response_token():
    logits = torch.zeros(2, 4, 10)  # uniform: ln 10 everywhere, but for one certain token
    logits[0, 1, 7] = 1e4
    labels = torch.tensor([[-100, -100, 7, 3], [-100, 5, -100, -100]])
    torch.testing.assert_close(
        reconstruction_loss(logits, labels), torch.tensor(2 * math.log(10) / 3)
    )  # 3 tokens, not 2 rows


def test_reconstruction_shifts_by_one():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 10), torch.randint(10, (3, 5))
    expected = torch.stack(
        [-torch.log_softmax(logits[b, t], -1)[labels[b, t + 1]] for b in range(3) for t in range(4)]
    ).mean()
    torch.testing.assert_close(reconstruction_loss(logits, labels), expected)


def test_reconstruction_without_a_response_token_is_zero():
    assert reconstruction_loss(torch.randn(2, 3, 10), torch.full((2, 3), -100)) == 0


def unit(means):
    """Unit Gaussians with the given means per example, [B, D]; against N(0, 1) their KL is mean^2 / 2."""
    mean = torch.tensor(means)
    return Gaussian(mean, torch.zeros_like(mean))


def test_free_bits_clamp_the_batch_mean_of_each_dimension():
    posterior, prior = unit([[0.0, 0.2], [2.0, 0.0]]), unit([[0.0, 0.0], [0.0, 0.0]])
    kl, unclamped = kl_loss(
        posterior, prior, free_bits=0.5
    )  # batch means: (0 + 2) / 2 = 1 and (0.02 + 0) / 2 = 0.01
    torch.testing.assert_close(
        kl, torch.tensor(1.0 + 0.5)
    )  # clamping each example first would give (0.5 + 2) / 2 + 0.5
    torch.testing.assert_close(unclamped, torch.tensor(1.01))
    torch.testing.assert_close(kl_loss(posterior, prior, free_bits=0.0), (unclamped, unclamped))


def test_free_bits_stop_the_gradient_of_settled_dimensions():
    mean = torch.tensor([[2.0, 0.1]], requires_grad=True)
    kl_loss(Gaussian(mean, torch.zeros(1, 2)), unit([[0.0, 0.0]]), free_bits=0.5)[0].backward()
    torch.testing.assert_close(mean.grad, torch.tensor([[2.0, 0.0]]))


def test_kl_goes_from_posterior_to_prior():
    wide, narrow = (
        Gaussian(torch.zeros(1, 1), torch.full((1, 1), math.log(variance))) for variance in (4.0, 1.0)
    )
    torch.testing.assert_close(kl_loss(wide, narrow, 0.0)[0], torch.tensor(0.5 * (4 - 1 - math.log(4))))


def test_classification_reads_the_head_of_each_examples_own_attribute():
    sure = torch.tensor([[0.0, 3.0], [0.0, 3.0], [9.0, 0.0], [3.0, 0.0]])
    three_way = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 9.0, 0.0]])
    targets = torch.tensor([[1, -1], [0, -1], [-1, 2], [-1, 2]])
    loss, accuracy = classification_loss([sure, three_way], targets)
    right, wrong = math.log(1 + math.exp(-3)), 3 + math.log(1 + math.exp(-3))
    right3, wrong3 = math.log(1 + 2 * math.exp(-3)), 9 + math.log(1 + 2 * math.exp(-9))
    torch.testing.assert_close(loss, torch.tensor((right + wrong + right3 + wrong3) / 4))
    assert accuracy == 0.5 and not accuracy.requires_grad


def of_attributes(n_attributes, *attributes):
    """Targets that name the first aspect of one attribute each."""
    targets = torch.full((len(attributes), n_attributes), -1)
    targets[torch.arange(len(attributes)), list(attributes)] = 0
    return targets


def test_classification_adds_up_the_heads_of_several_labels_and_leaves_out_what_does_not_count():
    """Three examples: both attributes named, the second alone, and one that the heads do not learn from."""
    first = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 9.0]], requires_grad=True)
    second = torch.tensor([[9.0, 0.0], [0.0, 2.0], [0.0, 9.0]])
    targets, counted = torch.tensor([[1, 1], [-1, 1], [0, 0]]), torch.tensor([True, True, False])
    loss, accuracy = classification_loss([first, second], targets, counted)
    both, one = math.log(1 + math.exp(-3)) + 9 + math.log(1 + math.exp(-9)), math.log(1 + math.exp(-2))
    torch.testing.assert_close(loss, torch.tensor((both + one) / 2))
    torch.testing.assert_close(accuracy, torch.tensor((0.5 + 1.0) / 2))
    loss.backward()
    assert first.grad[0].abs().sum() > 0 and first.grad[1:].abs().sum() == 0
    nothing, _ = classification_loss([first, second], targets, torch.zeros(3, dtype=torch.bool))
    assert nothing == 0


def test_an_example_of_several_attributes_is_a_point_of_each():
    z = torch.tensor([[0.0], [6.0], [3.0]])  # means (0 + 3) / 2 and (6 + 3) / 2
    torch.testing.assert_close(distance_loss(z, torch.tensor([[0, -1], [-1, 1], [1, 0]])), torch.tensor(9.0))


def test_distance_of_one_attribute_is_zero():
    assert distance_loss(torch.randn(4, 3), of_attributes(3, 1, 1, 1, 1)) == 0


def test_distance_of_two_attributes_by_hand():
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # means (2, 0) and (0, 4): (4 + 16) / 2 dimensions
    torch.testing.assert_close(distance_loss(z, of_attributes(3, 0, 0, 2)), torch.tensor(10.0))


def test_distance_of_three_attributes_is_the_mean_over_pairs():
    z = torch.tensor([[0.0], [1.0], [3.0], [3.0]])  # 1, 9 and 4
    torch.testing.assert_close(distance_loss(z, of_attributes(4, 0, 1, 2, 2)), torch.tensor(14 / 3))


def test_distance_pulls_attributes_together():
    z = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    distance_loss(z, of_attributes(2, 0, 1)).backward()
    assert z.grad[0] > 0 > z.grad[1]


def total_loss(weight, rows, ids):
    """All terms of the loss on some of `rows`, with the one parameter `weight` in each of them."""
    x, labels, targets, counted = (rows[key][ids] for key in ("x", "labels", "targets", "counted"))
    z = x[:, 0] * weight
    posterior, prior = Gaussian(z, 0.3 * z), Gaussian(0.5 * x[:, 1] * weight, -0.1 * z)
    kl = kl_loss(posterior, prior, free_bits=0.6)
    classification = classification_loss([z[:, :2], z[:, 2:5]], targets, counted)
    terms = [
        reconstruction_loss(x * weight, labels),
        *kl,
        *classification,
        distance_loss(z, targets),
        mean_over_processes(z).sum(),
    ]
    return torch.stack([term.detach() for term in terms]), terms[0] + kl[0] + 2 * classification[
        0
    ] + 3 * terms[5] + 0.1 * terms[6]


def some_rows():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (8, 4), generator=generator)
    labels[:2, 1:] = -100  # the processes get unequal numbers of tokens
    return {
        "x": torch.randn(8, 4, 6, generator=generator),
        "labels": labels,
        "targets": torch.tensor(  # and the first none of attribute 1
            [[0, -1], [1, -1], [1, -1], [-1, 2], [1, 0], [0, -1], [-1, 1], [0, 2]]
        ),
        "counted": torch.tensor([False, False, False, True, False, True, True, True]),  # and it none of these
    }


def run_process(rank, folder):
    """One of two processes, with three of eight rows or the other five."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    weight = torch.linspace(0.5, 1.5, 6).requires_grad_(True)
    terms, loss = total_loss(weight, some_rows(), slice(0, 3) if rank == 0 else slice(3, 8))
    loss.backward()
    torch.save({"terms": terms, "loss": loss.detach(), "gradient": weight.grad}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort the interpreter on its way out, after all is done


def test_two_processes_have_the_loss_and_gradient_of_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(run_process, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    weight = torch.linspace(0.5, 1.5, 6).requires_grad_(True)
    terms, loss = total_loss(weight, some_rows(), slice(0, 8))
    loss.backward()
    for result in found:
        torch.testing.assert_close(result["terms"], terms)
        torch.testing.assert_close(result["loss"], loss.detach())
    averaged = (found[0]["gradient"] + found[1]["gradient"]) / 2  # what distributed data parallel does
    torch.testing.assert_close(averaged, weight.grad)
    assert not torch.allclose(found[0]["gradient"], found[1]["gradient"])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_losses_are_computed_in_fp32_from_half_precision_logits(scale):
    torch.manual_seed(0)
    logits, labels = (torch.randn(2, 3, 50) * scale).bfloat16(), torch.randint(50, (2, 3))
    expected = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(reconstruction_loss(logits, labels), expected)


def test_processes_wait_for_one_another_once_a_term_and_once_for_its_gradient(
    make_miracle, batch, monkeypatch
):
    """Every message is a stop between two recorded graphs; only the logged deviations have one without a gradient."""
    weights = LossWeights(kl=0.1, classification=1.0, distance=0.1)
    alone = make_miracle()(**batch, weights=weights, noise=torch.ones(5, 8))
    sent = []
    monkeypatch.setattr(losses, "_several", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: sent.append(value.numel()))
    terms = make_miracle()(**batch, weights=weights, noise=torch.ones(5, 8))
    assert len(sent) == 5
    terms["loss"].backward()
    assert len(sent) == 5 + 4
    assert all(terms[name].equal(value) for name, value in alone.items())
