"""model/encoder.py: mean pooling over real tokens."""

import pytest
import torch
from conftest import encoder_settings

from model.adapters import load_base_weights
from model.encoder import MeanEncoder, encoder_weights


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return MeanEncoder(encoder_settings()).eval()


IDS = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 3, 0, 0, 0]])
MASK = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])


def test_output_is_the_mean_over_real_tokens(encoder):
    states = encoder.transformer(input_ids=IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(encoder(IDS, MASK), torch.stack([states[0].mean(0), states[1, :3].mean(0)]))


def test_encoding_does_not_depend_on_padding_or_batch(encoder):
    together, alone = encoder(IDS, MASK), encoder(IDS[1:, :3], MASK[1:, :3])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    garbage = IDS.masked_fill(MASK == 0, 77)
    torch.testing.assert_close(encoder(garbage, MASK), together, atol=1e-5, rtol=1e-5)


def test_token_types_are_read(encoder):
    types = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
    assert not torch.allclose(encoder(IDS, MASK, types), encoder(IDS, MASK), atol=1e-3)
    torch.testing.assert_close(encoder(IDS, MASK, torch.zeros_like(IDS)), encoder(IDS, MASK))


def test_encoder_without_token_types_ignores_them():
    torch.manual_seed(0)
    encoder = MeanEncoder(encoder_settings(type_vocab_size=1)).eval()
    torch.testing.assert_close(encoder(IDS, MASK, MASK), encoder(IDS, MASK))


def test_base_is_taken_over_without_its_pooler(encoder):
    from transformers import BertConfig, BertModel

    torch.manual_seed(5)
    base = BertModel(BertConfig(**{k: v for k, v in encoder_settings().items() if k != "model_type"})).eval()
    load_base_weights(encoder.transformer, encoder_weights(base), optional="pooler.")
    states = base(input_ids=IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(encoder(IDS, MASK)[0], states[0].mean(0))
    smaller = MeanEncoder(encoder_settings(num_hidden_layers=1))
    with pytest.raises(ValueError, match="weights of another architecture: encoder.layer.1"):  # strictly
        load_base_weights(smaller.transformer, encoder_weights(base), optional="pooler.")


def test_there_is_no_unused_pooler(encoder):
    assert not any("pooler" in name for name, _ in encoder.named_parameters())
