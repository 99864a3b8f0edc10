"""Weights in bf16: rounding that is right on average, training that plain rounding brings to a standstill, resumed to the bit."""

import copy
import io
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import InputError
from common.options import parse_arguments
from generation.loading import load_cvae
from training import bf16_weights, cvae
from training.bf16_weights import hold_in_bf16, round_stochastically, rounding_adamw

ROOT = Path(__file__).resolve().parents[2]
BF16 = torch.bfloat16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rounded(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    out = torch.empty(len(values), dtype=BF16, device=DEVICE)
    assert round_stochastically(values.to(DEVICE), torch.Generator(DEVICE).manual_seed(seed), out) is out
    return out.cpu()


@pytest.mark.parametrize("value", [1.001, -1.001, 0.0317, -3e-5, 250.3])
def test_a_number_becomes_one_of_its_neighbours_and_itself_on_average(value):
    number, count = torch.tensor(value), 40_000
    spacing = 2.0 ** (math.floor(math.log2(abs(value))) - 7)  # of bf16's numbers there
    below = math.floor(number.item() / spacing) * spacing
    found = rounded(number.expand(count).contiguous()).double()
    assert set(found.tolist()) == {below, below + spacing}
    deviation = spacing / 2 / count**0.5  # of the mean, at most
    assert abs(found.mean().item() - number.item()) < 4 * deviation


def test_what_bf16_has_stays_and_what_is_not_finite_is_never_a_number():
    exact = torch.tensor([0.0, 1.0, -1.5, 2.0**-130, 3.0e38]).to(BF16).float()
    for seed in range(20):
        assert rounded(exact, seed).float().equal(exact)
    bits = torch.tensor(
        [0x7FFFFFFF, -1, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32
    )  # NaN, infinity
    assert rounded(bits.view(torch.float32).repeat(1000)).isnan().all()


def test_buffers_stay_and_tied_weights_stay_tied(make_decoder):
    lm = make_decoder("llama", tie_word_embeddings=True).lm
    frequencies = lm.model.rotary_emb.inv_freq
    hold_in_bf16(lm)
    assert {p.dtype for p in lm.parameters()} == {BF16} and lm.model.rotary_emb.inv_freq is frequencies
    assert frequencies.dtype == torch.float32 and lm.lm_head.weight is lm.model.embed_tokens.weight


# --- the optimizer -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bitsandbytes():
    return pytest.importorskip("bitsandbytes")


def weights(*shape: int) -> list[torch.nn.Parameter]:
    """Of two types, and one with fewer numbers than 8-bit moments are for."""
    torch.manual_seed(0)
    values = [torch.randn(*shape), torch.randn(7), torch.randn(*shape)]
    return [torch.nn.Parameter(v.to(DEVICE, t)) for v, t in zip(values, (BF16, BF16, torch.float32))]


def train(parameters, optimizer, steps, seed=0) -> None:
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=source).to(parameter)
        optimizer.step()


def groups(parameters) -> list[dict]:
    return [
        {"params": parameters[:2], "lr": 1e-3, "weight_decay": 0.1},
        {"params": parameters[2:], "lr": 3e-3, "weight_decay": 0.0},
    ]


def test_small_updates_count_where_the_nearest_number_would_lose_them(bitsandbytes):
    """A regression whose weights lie near 1 with a rate of a fortieth of the distance between two numbers there."""
    torch.manual_seed(0)
    inputs, target = torch.randn(512, 64).to(DEVICE), 1.0 + 0.004 * torch.randn(64, 64).to(DEVICE)
    losses = {}
    for name, kind in (("nearest", bitsandbytes.optim.AdamW), ("stochastic", rounding_adamw())):
        weight = torch.nn.Parameter(torch.ones(64, 64, dtype=BF16, device=DEVICE))
        optimizer = kind([weight], lr=1e-4, optim_bits=8, weight_decay=0.0)
        for step in range(200):
            rows = inputs[step % 4 :: 4]
            loss = (rows @ (weight.float() - target)).pow(2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.setdefault(name, []).append(loss.item())
        losses[name] = [sum(losses[name][:4]), sum(losses[name][-4:])]
        assert weight.equal(torch.ones_like(weight)) == (name == "nearest")
    assert losses["nearest"][1] == losses["nearest"][0]
    assert losses["stochastic"][1] < losses["nearest"][1]


def test_on_average_the_weights_are_those_of_fp32(bitsandbytes):
    exact, mean, count = [torch.nn.Parameter(p.float()) for p in weights(64, 128)], 0.0, 50
    train(exact, bitsandbytes.optim.AdamW(groups(exact), optim_bits=8), 1)
    for seed in range(count):
        parameters = weights(64, 128)
        train(parameters, rounding_adamw()(groups(parameters), optim_bits=8, seed=seed), 1)
        assert parameters[2].equal(exact[2])  # fp32 as the library has it
        mean = mean + torch.cat([p.detach().double().flatten() for p in parameters[:2]]) / count
    start = torch.cat([p.detach().double().flatten() for p in weights(64, 128)[:2]])
    goal = torch.cat([p.detach().double().flatten() for p in exact[:2]])
    moved = (
        (goal - start).abs().mean()
    )  # gradients of bf16's weights are rounded, of which Adam's first step sees the sign
    assert (mean - goal).mean().abs() < 0.05 * moved and (mean - goal).abs().mean() < moved


def test_pieces_are_updated_as_the_whole(bitsandbytes, monkeypatch):
    """Their moments too, where the last piece is short and ends within a block of 256."""
    monkeypatch.setattr(
        bf16_weights, "round_stochastically", lambda values, generator, out: out.copy_(values)
    )
    trained = {}
    for size in (2**20, 1024):
        monkeypatch.setattr(bf16_weights, "CHUNK", size)
        parameters = weights(37, 131)
        optimizer = rounding_adamw()(groups(parameters), optim_bits=8)
        train(parameters, optimizer, 2)
        trained[size] = parameters, [optimizer.state[parameter] for parameter in parameters]
        assert len(optimizer.state) == 3  # of no piece
    (whole, states), (pieces, theirs) = trained.values()
    assert all(one.equal(two) for one, two in zip(whole, pieces))
    for one, two in zip(states, theirs):
        assert one["step"] == two["step"] == 2 and one["state1"].any() and one["state2"].any()
        assert all(one[name].equal(two[name]) for name in ("state1", "state2"))
    assert all(states[0][name].equal(theirs[0][name]) for name in ("absmax1", "absmax2"))


def test_resumed_it_goes_on_to_the_bit(bitsandbytes):
    parameters = weights(64, 128)
    optimizer = rounding_adamw()(groups(parameters), optim_bits=8, seed=3)
    train(parameters, optimizer, 3)
    kept, file = copy.deepcopy(parameters), io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = rounding_adamw()(groups(kept), optim_bits=8, seed=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(3)  # what others draw does not matter
    for one, two in ((parameters, optimizer), (kept, other)):
        train(one, two, 2, seed=1)
    assert all(one.equal(two) for one, two in zip(parameters, kept))
    another = weights(64, 128)
    train(another, rounding_adamw()(groups(another), optim_bits=8, seed=4), 3)
    same = weights(64, 128)
    train(same, rounding_adamw()(groups(same), optim_bits=8, seed=3), 3)
    assert not same[0].equal(another[0]) and same[2].equal(another[2])


# --- a training --------------------------------------------------------------------------------------------------------

WORDS = (
    "--preset scratch --limit 5 --max_steps 4 --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --eval_strategy no"
    " --save_strategy no --logging_steps 1 --load_best_model_at_end false --use_cpu --encoder_length 32 --decoder_length 48"
    " --scratch_vocab_size 300 --max_grad_norm 0.5 --recompute_tokens 1"
)


def options(outs: Path, words: str) -> tuple:
    return parse_arguments(
        cvae.OPTIONS,
        "cvae",
        f"{WORDS} {words} --outs {outs} --run r --schema {ROOT / 'schema.py'}".split(),
        "",
    )


BF16_WORDS = "--bf16_decoder true --optim adamw_bnb_8bit --precision bf16"


def test_the_decoder_is_trained_in_bf16_and_the_rest_in_fp32(tmp_path, bitsandbytes):
    cvae.train(*options(tmp_path, BF16_WORDS))
    folder = tmp_path / "r" / "cvae"
    saved = load_file(folder / "model.safetensors")
    for name, value in saved.items():
        assert value.dtype == (BF16 if name.startswith("decoder.lm.") else torch.float32), name
    model = load_cvae(folder)
    assert model.decoder.lm.dtype == torch.float32  # a CPU writes replies in fp32
    assert all(model.state_dict()[name].equal(value.float()) for name, value in saved.items())
    history = json.loads((folder / "stage.json").read_text())["metrics"]["history"]
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 4 and all(entry["grad_norm"] > 0 for entry in steps)


@pytest.mark.parametrize(
    "words, said",
    [
        (f"{BF16_WORDS} --lora_rank 4", "--bf16_decoder is for training all weights"),
        ("--bf16_decoder true --precision bf16", "needs --optim adamw_bnb_8bit"),
        ("--bf16_decoder true --optim adamw_bnb_8bit --precision fp32", "add --precision bf16"),
    ],
)
def test_where_it_cannot_be_it_says_why(tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        cvae.train(*options(tmp_path, words))


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cvae.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="python -m pip install bitsandbytes"):
        cvae.train(*options(tmp_path, BF16_WORDS))
