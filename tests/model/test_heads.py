"""model/heads.py: latent classifiers."""

import torch

from model.heads import LatentHeads, latent_head


def test_logits_have_each_attributes_number_of_aspects():
    assert [logits.shape for logits in LatentHeads(8, [2, 3], 16, 0)(torch.randn(5, 8))] == [(5, 2), (5, 3)]


def test_no_hidden_layers_is_a_linear_head():
    assert [type(m).__name__ for m in latent_head(8, 3, 16, 0)] == ["Linear"]
    assert [getattr(m, "out_features", None) for m in latent_head(8, 3, 16, 2)] == [16, None, 16, None, 3]
