"""model/decoder.py: the latent prefix and offset, padding, and the caches that cannot take a prefix."""

import pytest
import torch
from conftest import decoder_settings
from transformers import AutoConfig, Cache, DynamicCache, GPT2Config, LlamaConfig, Qwen2Config

from model.cache import PrefixLayer
from model.decoder import LatentDecoder, causal_mask, check_plain_cache, padded_product

KINDS = ("gpt2", "llama")


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_is_attended_to_like_real_keys_and_values(kind, make_decoder):
    """With the keys and values of real tokens as prefix, logits are those of the whole sequence read at once."""
    decoder, ids = make_decoder(kind), torch.tensor([[11, 12, 13, 14, 15, 16, 17, 18]])
    with torch.no_grad():
        past = decoder.lm(ids[:, :3], past_key_values=DynamicCache(), use_cache=True).past_key_values
        decoder.prefix = lambda z: [(layer.keys, layer.values) for layer in past.layers]
        decoder.to_offset.weight.zero_(), decoder.to_offset.bias.zero_()
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])  # the tokens count from 0 behind the prefix
        whole = decoder.lm(ids, position_ids=positions).logits[:, 3:]
        torch.testing.assert_close(
            decoder(ids[:, 3:], torch.ones(1, 5, dtype=torch.long), torch.zeros(1, 8)),
            whole,
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_padding_or_batch(kind, make_decoder):
    decoder, z = make_decoder(kind), torch.randn(2, 8)
    ids, mask = torch.randint(4, 320, (2, 9)), torch.tensor([[1] * 9, [1] * 4 + [0] * 5])
    with torch.no_grad():
        together, alone = decoder(ids, mask, z), decoder(ids[1:, :4], mask[1:, :4], z[1:])
    torch.testing.assert_close(together[1:, :4], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_look_ahead(kind, make_decoder):
    decoder, z, ids = make_decoder(kind), torch.randn(1, 8), torch.randint(4, 320, (1, 6))
    changed = torch.cat([ids[:, :4], torch.tensor([[5, 6]])], 1)
    with torch.no_grad():
        first, second = (decoder(i, torch.ones_like(i), z) for i in (ids, changed))
    torch.testing.assert_close(first[:, :4], second[:, :4])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("closed", ["to_prefix", "to_offset"])
def test_latent_enters_by_prefix_and_by_offset(kind, closed, make_decoder):
    decoder, ids = make_decoder(kind), torch.randint(4, 320, (2, 6))
    with torch.no_grad():
        getattr(decoder, closed).weight.zero_()
        first, second = (decoder(ids, torch.ones_like(ids), z) for z in (torch.zeros(2, 8), torch.ones(2, 8)))
    assert ((first - second).abs().amax(-1) > 1e-3).all()  # at every position


def test_prefix_has_the_shape_of_the_cache(make_decoder):
    for kind, heads in (
        ("gpt2", 4),
        ("llama", 2),
    ):  # grouped-query attention caches two heads for four queries
        prefix = make_decoder(kind).prefix(torch.randn(5, 8))
        assert len(prefix) == 2 and {states.shape for layer in prefix for states in layer} == {
            (5, heads, 3, 8)
        }


def test_head_size_of_its_own():
    decoder = LatentDecoder(decoder_settings("llama", head_dim=16), 8, 3, 0.0)
    assert decoder.prefix(torch.randn(1, 8))[0][0].shape == (1, 2, 3, 16)
    decoder(torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.long), torch.randn(1, 8))


def test_new_tokens_see_what_is_real_up_to_themselves_and_padding_itself():
    seen = torch.tensor([[1, 0, 0, 1, 1], [0, 0, 1, 1, 1]])  # two columns of the past, then three new tokens
    expected = [
        [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]],
        [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]],
    ]
    assert causal_mask(seen, 3).int().tolist() == [[rows] for rows in expected]


def test_prefix_layer_gives_all_and_stores_nothing():
    keys, values, new = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    cache = Cache(layers=[PrefixLayer(keys, values)])
    for _ in range(2):  # recomputing a layer asks twice
        found = cache.update(new, new + 1, 0)
        assert torch.equal(found[0], torch.cat([keys, new], 2)) and torch.equal(
            found[1], torch.cat([values, new + 1], 2)
        )
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_cache_with_room_gives_the_logits_of_the_whole(kind, attention, make_decoder):
    """Token by token into its columns, with unused columns behind them, which are as good as not there."""
    decoder, z, ids = make_decoder(kind), torch.randn(2, 8), torch.randint(4, 320, (2, 7))
    decoder.lm.set_attn_implementation(attention)
    cache, prefix = decoder.start_cache(z, 7), decoder.n_prefix
    room = cache.layers[0].keys.shape[2]
    assert room % 8 == 0 and room >= prefix + 7
    for layer in cache.layers:
        layer.keys[:, :, prefix:], layer.values[:, :, prefix:] = 1e4, 1e4
    with torch.no_grad():
        embeddings, parts = decoder.embed(ids, decoder.to_offset(z)), []
        for begin, end, visible in ((0, 4, prefix + 4), (4, 5, room), (5, 7, room)):
            cache.set_columns(torch.arange(prefix + begin, prefix + end), visible)
            mask = torch.arange(visible) <= prefix + torch.arange(begin, end).unsqueeze(1)
            positions = torch.arange(begin, end).expand(2, -1)
            parts.append(decoder.call(embeddings[:, begin:end], mask.expand(2, 1, -1, -1), positions, cache))
        whole = decoder(ids, torch.ones_like(ids), z)
        torch.testing.assert_close(
            torch.cat(parts, 1),
            whole if decoder.to_logits is None else whole - decoder.to_logits(z).unsqueeze(1),
            atol=1e-5,
            rtol=1e-5,
        )


def test_token_dropout_leaves_the_offset_alone_where_it_zeroes(make_decoder):
    decoder, ids, offset = (
        make_decoder(token_dropout=0.4),
        torch.randint(4, 320, (50, 40)),
        torch.randn(50, 32),
    )
    kept = decoder.embed(ids, offset)
    torch.testing.assert_close(
        kept, decoder.lm.get_input_embeddings()(ids) + offset.unsqueeze(1)
    )  # eval: none
    dropped = decoder.train().embed(ids, offset)
    zeroed = (dropped == offset.unsqueeze(1)).all(-1)
    assert abs(zeroed.float().mean() - 0.4) < 0.05
    torch.testing.assert_close(dropped[~zeroed], kept[~zeroed])


def test_tied_weights_go_by_their_names_here(make_decoder):
    assert make_decoder("gpt2").all_tied_weights_keys == {"lm.lm_head.weight": "lm.transformer.wte.weight"}
    assert make_decoder("llama").all_tied_weights_keys == {}


def test_plain_caches_are_accepted():
    for config in (
        GPT2Config(),
        LlamaConfig(num_key_value_heads=2),
        Qwen2Config(),
        AutoConfig.for_model("mistral", sliding_window=None),
    ):
        check_plain_cache(config)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("mamba", {}, "recurrent state"),
        ("mamba2", {}, "recurrent state"),
        ("rwkv", {}, "recurrent state"),
        ("jamba", {}, "recurrent state"),
        ("recurrent_gemma", {}, "sliding|recurrent"),
        ("deepseek_v2", {}, "kv_lora_rank"),
        ("deepseek_v3", {}, "kv_lora_rank"),
        ("llama", {"kv_lora_rank": 16}, "kv_lora_rank"),
        ("mistral", {"sliding_window": 4096}, "sliding_window"),
        ("gemma2", {}, "sliding_attention"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
            "sliding_attention",
        ),
        ("falcon_h1", {}, "hybrid|recurrent"),
        ("t5", {}, "encoder-decoder"),
        ("bart", {}, "encoder-decoder"),
    ],
)
def test_other_caches_are_refused_by_name(kind, options, named):
    message = rf"decoder of type '{kind}' keeps .*({named}).*; z enters as a key/value prefix, which needs a causal LM"
    with pytest.raises(ValueError, match=message):
        check_plain_cache(AutoConfig.for_model(kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            "gpt_neo",
            {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
        ),  # a local layer's window leaves the prefix behind
        ("bert", {}),  # without is_decoder every position sees the answer
    ],
)
def test_models_that_would_go_wrong_silently_are_refused(kind, options):
    with pytest.raises(ValueError, match=f"decoder of type '{kind}'"):
        check_plain_cache(AutoConfig.for_model(kind, **options))


def test_refusal_comes_before_the_weights():
    settings = {"model_type": "mistral", "hidden_size": 10**6, "num_hidden_layers": 1000, "sliding_window": 8}
    with pytest.raises(ValueError, match="sliding_window"):
        LatentDecoder(settings, 8, 3, 0.0)


def test_lexical_offset_adds_a_linear_term_of_z_to_every_position(make_miracle):
    """With it the logits differ from those without by `to_logits(z)`, in training's forward and in decoding alike."""
    decoder = make_miracle(lexical_offset=True).decoder.eval()
    ids, z = torch.tensor([[3, 4, 5]]), torch.randn(1, decoder.to_offset.in_features)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        decoder.to_logits.weight.normal_()
        with_offset, lexical = decoder(ids, mask, z), decoder.to_logits(z)
        kept, decoder.to_logits = decoder.to_logits, None
        without = decoder(ids, mask, z)
        decoder.to_logits = kept
    torch.testing.assert_close(with_offset, without + lexical.unsqueeze(1))


@pytest.mark.parametrize("bias", [False, True])
def test_columns_of_zeros_change_neither_the_product_nor_its_gradients(bias):
    head, states = torch.nn.Linear(8, 101, bias=bias), torch.randn(3, 5, 8, requires_grad=True)
    upstream = torch.randn(3, 5, 101)
    plain = torch.autograd.grad((head(states) * upstream).sum(), [states, *head.parameters()])
    found = padded_product(head, states, torch.float32)
    torch.testing.assert_close(found, head(states))
    torch.testing.assert_close(
        torch.autograd.grad((found * upstream).sum(), [states, *head.parameters()]), plain
    )
