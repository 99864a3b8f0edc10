"""Layers in fewer kernels give what the library's layers give."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from model import fused_layers
from model.attention import group_attention
from model.cache import StaticPrefixCache
from model.fused_layers import fuse_layers

SHAPE = {
    "vocab_size": 90, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The condition without its first part, and a count of how often it held."""
    held = []

    def condition(module, states):
        held.append(not torch.is_grad_enabled() and not module.training)
        return held[-1]

    monkeypatch.setattr(fused_layers, "takes_fewer_kernels", condition)
    return held


def small(config: type, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config(**SHAPE, **more)).eval()
    for name, weight in lm.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)  # zeros would show nothing
    return lm


@torch.no_grad()
def written(lm: torch.nn.Module) -> torch.Tensor:
    """Logits of five tokens and of one more behind them, as decoding asks for them."""
    keys = [(torch.randn(3, 2, 1, 8, generator=torch.Generator().manual_seed(layer)),) * 2 for layer in (0, 1)]  # fmt: skip
    cache = StaticPrefixCache(keys, 8)
    ids = torch.randint(1, 90, (3, 6), generator=torch.Generator().manual_seed(2))
    logits = []
    for first, last in ((0, 5), (5, 6)):
        columns = torch.arange(first, last) + 1
        cache.set_columns(columns, last + 1)
        sees = torch.arange(last + 1) <= columns.unsqueeze(1)
        found = lm(
            input_ids=ids[:, first:last],
            attention_mask=sees.expand(3, 1, -1, -1),
            position_ids=torch.arange(first, last).expand(3, -1),
            past_key_values=cache,
        )
        logits.append(found.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config])
def test_the_same_logits(config, as_on_a_gpu):
    lm = small(config)
    group_attention(lm)
    before, names = written(lm), [name for name, _ in lm.named_parameters()]
    fuse_layers(lm)
    after = written(lm)
    assert torch.allclose(before, after, atol=1e-5)
    assert len(as_on_a_gpu) == 2 * 2 * 2 and all(as_on_a_gpu)  # layers, kinds, calls
    assert [name for name, _ in lm.named_parameters()] == names


def test_weights_that_were_converted_are_put_together_again(as_on_a_gpu):
    lm = small(LlamaConfig)
    fuse_layers(lm)
    before = written(lm)
    lm.double().float()
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(1.5)
    changed = written(lm)
    assert not torch.allclose(before, changed, atol=1e-2)
    as_on_a_gpu.clear()
    plain = small(LlamaConfig)
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(1.5)
    assert torch.allclose(changed, written(plain), atol=1e-4)


def test_the_librarys_code_where_nothing_is_written_on_a_gpu(monkeypatch):
    """On a CPU, with gradients, in training: the same numbers to the last bit, from the library's own functions."""
    lm = small(LlamaConfig)
    before = written(lm)
    fuse_layers(lm)
    monkeypatch.setattr(fused_layers, "grouped_attention", None)
    assert (written(lm) == before).all()
    ids = torch.arange(1, 7).view(2, 3)
    loss = lm(input_ids=ids, labels=ids).loss
    loss.backward()
    assert lm.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("lm", [GPT2Config(vocab_size=90, n_embd=16, n_layer=1, n_head=2), Qwen3Config(**SHAPE, head_dim=8)])  # fmt: skip
def test_other_attention_stays(lm):
    made = AutoModelForCausalLM.from_config(lm)
    fuse_layers(made)
    assert not any(hasattr(module, "side_by_side") for module in made.modules())
