"""Frozen layers in 4 bits: nearly the same decoder, the same adapters, and nothing of them in what is saved."""

import pytest
import torch

from model.quantised import hold_in_4bit

pytest.importorskip("bitsandbytes")


def test_the_loss_is_near_and_adapters_alone_are_saved(make_miracle, batch):
    from model.losses import LossWeights

    model = make_miracle("llama", lora_rank=4, decoder={"hidden_size": 64, "intermediate_size": 128})
    noise = torch.zeros(5, 8)
    before = model(**batch, weights=LossWeights(), noise=noise)["loss"]
    names = set(model.state_dict())
    assert hold_in_4bit(model.decoder.lm, torch.device("cpu"), torch.float32) == 2 * 7
    weight = model.decoder.lm.model.layers[0].self_attn.q_proj.base_layer.weight
    assert weight.dtype == torch.uint8 and weight.numel() == 64 * 64 // 2
    after = model(**batch, weights=LossWeights(), noise=noise)["loss"]
    assert after != before and torch.isclose(after, before, rtol=0.15)
    after.backward()
    trained = [p for name, p in model.decoder.named_parameters() if ".lora_B." in name]
    assert trained and all(p.grad.abs().sum() > 0 for p in trained)
    assert set(model.state_dict()) == names  # no constants of the quantisation
    model.decoder.train()  # it has no dropout; the encoder has
    model.gradient_checkpointing_enable()
    again = model(**batch, weights=LossWeights(), noise=noise)["loss"]
    torch.testing.assert_close(again, after)


def test_a_decoder_without_such_layers_is_left_as_it_is(make_miracle):
    assert hold_in_4bit(make_miracle("gpt2", lora_rank=4).decoder.lm, torch.device("cpu"), torch.float32) == 0
