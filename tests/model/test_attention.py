"""Attention that reads shared keys and values once."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from model.attention import GROUPED, group_attention, grouped_attention, takes_bool_masks


def small(heads: int, shared: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=90, hidden_size=24 * heads // 6 * 2, num_hidden_layers=2, num_attention_heads=heads,
            num_key_value_heads=heads // shared, intermediate_size=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip


def test_a_step_behind_a_mask_gives_what_eager_attention_gives():
    lm, ids = small(6, 3), torch.randint(1, 90, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[3, :1] = 0
    group_attention(lm)
    assert lm.config._attn_implementation == GROUPED and takes_bool_masks(lm)
    written = [
        lm.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, output_scores=True, return_dict_in_generate=True)
        for lm.config._attn_implementation in (GROUPED, "eager")
    ]  # fmt: skip
    assert (written[0].sequences == written[1].sequences).all()
    for ours, eager in zip(written[0].scores, written[1].scores):
        assert torch.allclose(ours, eager, atol=1e-5)


@pytest.mark.parametrize("shape", ["several tokens", "a mask of each head", "no groups", "scores added"])
def test_everything_else_is_the_librarys(monkeypatch, shape):
    """The library's function is asked, with all that was given."""
    asked = []
    monkeypatch.setattr(
        "model.attention.sdpa_attention_forward", lambda *given, **more: asked.append((given, more))
    )
    query = torch.randn(2, 6, 2 if shape == "several tokens" else 1, 4)
    keys = torch.randn(2, 6 if shape == "no groups" else 2, 5, 4)
    mask = torch.ones(2, 6 if shape == "a mask of each head" else 1, query.shape[2], 5, dtype=torch.bool)
    more = {"scaling": 0.5, "position_bias": mask.float() if shape == "scores added" else None}
    grouped_attention(torch.nn.Module(), query, keys, keys, mask, **more)
    (((_, *given), options),) = asked
    assert given[0] is query and given[3] is mask and options == more


def test_only_decoders_with_shared_keys_change():
    for lm in (
        small(6, 1),
        AutoModelForCausalLM.from_config(GPT2Config(vocab_size=90, n_embd=16, n_layer=1, n_head=2)),
    ):
        group_attention(lm)
        assert lm.config._attn_implementation == "sdpa"
    eager = small(6, 3)
    eager.set_attn_implementation("eager")
    group_attention(eager)
    assert eager.config._attn_implementation == "eager" and not takes_bool_masks(eager)
