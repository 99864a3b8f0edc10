"""model/checkpointing.py: layers are recomputed, and the prefix is kept."""

import pytest
import torch

from model.checkpointing import checkpoint_layers
from model.losses import LossWeights

WEIGHTS = LossWeights(kl=0.5, classification=1.0, distance=0.1, free_bits=0.05)


def loss_and_gradients(model, batch):
    """One training step's loss and gradients, with dropout, from the same seed."""
    model.train().zero_grad()
    torch.manual_seed(7)
    loss = model(**batch, weights=WEIGHTS)["loss"]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "switch", ["gradient_checkpointing_enable", "activation_checkpointing_enable"]
)  # before and since 5.18
def test_loss_and_gradients_are_those_without_checkpointing(kind, switch, make_miracle, batch):
    model = make_miracle(kind, token_dropout=0.3)
    plain_loss, plain = loss_and_gradients(model, batch)
    getattr(model, switch)()
    loss, gradients = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(gradients, plain, atol=1e-5, rtol=1e-4)
    assert gradients["decoder.to_prefix.weight"].abs().max() > 1e-4


def layer_calls(model, batch):
    """How often the attention of every layer runs in the forward pass, and in forward and backward together."""
    calls, parts = [], [m for name, m in model.named_modules() if name.endswith((".attn", "attention.self"))]
    hooks = [part.register_forward_pre_hook(lambda module, _: calls.append(module)) for part in parts]
    loss = model(**batch, weights=WEIGHTS)["loss"]
    forward = len(calls)
    if loss.requires_grad:
        loss.backward()
    for hook in hooks:
        hook.remove()
    return forward, len(calls)


def test_every_layer_runs_again_in_the_backward_pass(make_miracle, batch):
    model = make_miracle().train()
    assert layer_calls(model, batch) == (6, 6)  # two layers each of two encoders and the decoder
    assert checkpoint_layers(model) == 6
    assert layer_calls(model, batch) == (6, 12)
    assert checkpoint_layers(model) == 6  # a second time changes nothing
    assert layer_calls(model, batch) == (6, 12)


def test_nothing_is_recomputed_outside_of_training(make_miracle, batch):
    model = make_miracle()
    checkpoint_layers(model)
    assert layer_calls(model.eval(), batch) == (6, 6)
    with torch.no_grad():
        assert layer_calls(model.train(), batch) == (6, 6)


def test_checkpointed_model_saves_the_same_weights(make_miracle, tmp_path):
    model = make_miracle()
    names = set(model.state_dict())
    checkpoint_layers(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert set(loaded.state_dict()) == names
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_only_batches_over_the_limit_are_recomputed(kind, make_miracle, batch):
    """The decoder's layers alone, and with the same loss and gradients."""
    model = make_miracle(kind, token_dropout=0.3)
    plain_loss, plain = loss_and_gradients(model, batch)
    tokens = batch["decoder_ids"].numel()
    parts = [m for name, m in model.decoder.named_modules() if name.endswith((".attn", "self_attn"))]
    for over, times in ((tokens, 1), (tokens - 1, 2)):
        assert checkpoint_layers(model.decoder.lm, over) == 2
        calls = []
        hooks = [part.register_forward_pre_hook(lambda module, _: calls.append(module)) for part in parts]
        loss, gradients = loss_and_gradients(model, batch)
        for hook in hooks:
            hook.remove()
        assert len(calls) == 2 * times
        torch.testing.assert_close(loss, plain_loss)
        torch.testing.assert_close(gradients, plain, atol=1e-5, rtol=1e-4)


def test_dropout_is_seen_wherever_it_stands(make_miracle):
    from model.checkpointing import has_dropout

    assert has_dropout(make_miracle("gpt2").decoder.lm) and not has_dropout(make_miracle("llama").decoder.lm)
    assert has_dropout(make_miracle("llama", decoder={"attention_dropout": 0.1}).decoder.lm)


def test_a_fused_norm_is_the_models_own(make_miracle):
    from model.decoder import RMS_NORMS, rms_norm

    norms = [
        module for module in make_miracle("llama").decoder.lm.modules() if type(module).__name__ in RMS_NORMS
    ]
    assert len(norms) == 5
    states = torch.randn(2, 3, 32)
    for norm in norms:
        norm.weight.data.normal_()
        torch.testing.assert_close(rms_norm(norm, states), norm.plain_forward(states))
