"""CUDA graphs against the plain path. Only a GPU can record, so most of this is skipped elsewhere."""

import pytest
import torch

from generation.decoding import generate
from model.energy import aspect_energy
from model.gaussian import Gaussian
from model.graphs import recorded
from model.heads import LatentHeads
from model.losses import LossWeights
from model.noise import generators
from model.rowwise import solve_rowwise
from scripts import bench
from training.recorded_step import GraphedStep

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def trained(
    device: torch.device, records: bool, accumulate: int = 1
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Twelve steps of a tiny model without randomness, on batches of two shapes; its weights and losses."""
    size = bench.SIZES["demo"]
    model = bench.build(size, device, use_context=True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "token_dropout"):
            module.token_dropout = 0.0
        for name in ("attn_pdrop", "attention_probs_dropout_prob"):
            if hasattr(getattr(module, "config", None), name):
                setattr(module.config, name, 0.0)
    noise = torch.zeros(1, size.latent, device=device)

    def forward(batch, kl):
        terms = model.train()(
            **batch,
            weights=LossWeights(0.05, kl=kl, classification=1.0, distance=0.1),
            noise=noise.expand(batch["targets"].shape[0], -1),
        )
        return terms["loss"], torch.stack([term.detach() for term in terms.values()])

    step = GraphedStep(forward, list(model.parameters()), device)
    assert step.records == (device.type == "cuda")
    step.records &= records
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for number in range(12):
        for part in range(accumulate):
            batch = bench.example_batch(size, 4 if number % 3 else 6, True, device)
            batch["decoder_ids"] = (batch["decoder_ids"] + number + part) % 50
            losses.append(step(batch, kl=0.01 * number, scale=1 / accumulate)[0])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert len(step.graphs) == (2 if step.records else 0)
    return [parameter.detach() for parameter in model.parameters()], torch.stack(losses)


@gpu
@pytest.mark.parametrize("accumulate", [1, 2])
def test_recorded_training_is_plain_training(accumulate):
    device = torch.device("cuda")
    (plain, plain_losses), (found, found_losses) = (
        trained(device, records, accumulate) for records in (False, True)
    )
    torch.testing.assert_close(found_losses, plain_losses, atol=1e-3, rtol=1e-3)
    assert plain_losses[-1] < plain_losses[0]
    for a, b in zip(found, plain):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_parts_add_up_and_start_anew_after_the_optimizer(device):
    weight = torch.nn.Parameter(torch.ones(3, device=device))
    unused = torch.nn.Parameter(torch.ones(3, device=device))

    def forward(batch, kl):
        loss = (weight * batch["x"]).sum() + kl * weight.square().sum()
        return loss, loss.detach().unsqueeze(0)

    step = GraphedStep(forward, [weight, unused], torch.device(device))
    x = torch.tensor([1.0, 2.0, 3.0], device=device)
    for number in range(4):  # plain, recorded, replayed; forgotten and recorded again
        if number == 3:
            step.forget()
        assert step({"x": x}, kl=0.5, scale=0.5).item() == pytest.approx(7.5)
        assert step({"x": 2 * x}, kl=0.5, scale=0.5).item() == pytest.approx(13.5)
        torch.testing.assert_close(weight.grad, 1.5 * x + 1.0)
        assert unused.grad is None  # the optimizer leaves it alone
        weight.grad = None


@gpu
@pytest.mark.parametrize("decoding", ["greedy", "top_p"])
@pytest.mark.parametrize("batch", [1, 7, 300])
def test_recorded_decoding_writes_the_same_tokens(decoding, batch):
    device, size = torch.device("cuda"), bench.SIZES["demo"]
    decoder = bench.build(size, device, use_context=True).eval().decoder
    torch.manual_seed(0)
    z, prompt = (
        3 * torch.randn(batch, size.latent, device=device),
        torch.randint(size.decoder[3], (batch, 9), device=device),
    )

    def replies(graphs, eos=-1, **options):
        sources = (
            generators(0, [(str(row), "") for row in range(batch)], "text") if decoding == "top_p" else None
        )
        options = {
            "max_new_tokens": 40,
            "no_repeat_ngram_size": 2,
            "repetition_penalty": 1.3,
            "temperature": 0.5,
        } | options
        return generate(
            decoder,
            z,
            prompt,
            torch.ones_like(prompt),
            eos_token_id=eos,
            pad_token_id=0,
            decoding=decoding,
            sources=sources,
            graphs=graphs,
            **options,
        )

    plain = replies(False)
    assert replies(True) == plain and len({tuple(reply) for reply in plain}) == batch
    eos = plain[0][20]
    ended = replies(False, eos)
    assert replies(True, eos) == ended and min(map(len, ended)) <= 20


@gpu
def test_recorded_steps_of_the_solver_end_where_plain_ones_do():
    torch.manual_seed(0)
    heads, prior = (
        LatentHeads(16, [2, 3], 128, 2).cuda(),
        Gaussian(torch.randn(50, 16).cuda(), torch.randn(50, 16).cuda()),
    )
    targets = torch.randint(2, (50, 2)).cuda()

    def drift_of(rows):
        energy = aspect_energy(heads, targets[rows], torch.full((2,), 50.0).cuda())
        return lambda s, u: -prior.std[rows] * energy.gradient(prior.mean[rows] + prior.std[rows] * u)

    plain, found = (
        solve_rowwise(drift_of, torch.zeros(50, 16).cuda(), [1.0, 5.0], 1e-3, graphs=graphs)
        for graphs in (False, True)
    )
    torch.testing.assert_close(found.states, plain.states, atol=1e-3, rtol=1e-3)
    assert found.converged.all() and (found.nfe - plain.nfe).abs().max() <= 9


@gpu
def test_what_cannot_be_recorded_is_said_and_left_plain(caplog):
    x = torch.ones(3, device="cuda")
    assert recorded(lambda: x.sum().item()) is None
    assert "could not be recorded" in caplog.text
    replay = recorded(lambda: x.add_(1))
    assert replay is not None and x.sum().item() == 3  # recording does not run
    replay()
    assert x.sum().item() == 6
