"""model/heads.py: latent classifiers."""

import torch

from model.heads import LatentHeads, latent_head


def test_logits_have_each_attributes_number_of_aspects():
    assert [logits.shape for logits in LatentHeads(8, [2, 3])(torch.randn(5, 8))] == [(5, 2), (5, 3)]


def test_negative_log_probability_is_that_of_the_softmax():
    torch.manual_seed(0)
    heads, z, targets = (
        LatentHeads(8, [2, 3], width=16),
        torch.randn(4, 8),
        torch.tensor([[0, 2], [1, 0], [0, 1], [1, 2]]),
    )
    expected = torch.stack(
        [
            -torch.softmax(logits, -1).gather(1, targets[:, k : k + 1])[:, 0].log()
            for k, logits in enumerate(heads(z))
        ],
        1,
    )
    torch.testing.assert_close(heads.negative_log_probability(z, targets), expected)


def test_unnamed_attributes_cost_nothing_in_mixed_and_in_whole_columns():
    heads, z = LatentHeads(8, [2, 3], width=16), torch.randn(2, 8)
    full = heads.negative_log_probability(z, torch.tensor([[0, 1], [0, 1]]))
    mixed = heads.negative_log_probability(z, torch.tensor([[0, -1], [-1, -1]]))
    assert mixed[0, 0] == full[0, 0] and mixed[:, 1].tolist() == [0, 0] and mixed[1, 0] == 0


def test_no_hidden_layers_is_a_linear_head():
    assert [type(m).__name__ for m in latent_head(8, 3, 16, 0)] == ["Linear"]
    assert [getattr(m, "out_features", None) for m in latent_head(8, 3, 16, 2)] == [16, None, 16, None, 3]
