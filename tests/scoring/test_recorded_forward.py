"""A classifier's recorded pass gives what the classifier gives."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from dataset.batching import pad_inputs, rounded
from scoring.recorded_forward import RecordedForward


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def batch_of(rows: int, longest: int) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(rows + longest)
    lengths = [1 + n % longest for n in range(rows - 1)] + [longest]
    ids = [torch.randint(1, 50, (length,), generator=source).tolist() for length in lengths]
    return pad_inputs([{"input_ids": row, "token_type_ids": [0] * len(row)} for row in ids], 0)


@pytest.mark.parametrize(
    "rows, width, shape", [(1, 3, (1, 16)), (3, 16, (4, 16)), (5, 17, (8, 22)), (65, 4, (128, 16))]
)
def test_padding_to_a_rounded_shape_changes_nothing(classifier, rows, width, shape):
    batch = batch_of(rows, width)
    wider = rounded(batch, 0, longest=22)
    assert all(tuple(value.shape) == shape for value in wider.values())
    with torch.no_grad():
        plain, padded = classifier(**batch).logits, classifier(**wider).logits[:rows]
    assert torch.allclose(plain, padded, atol=1e-6)


def test_a_shape_is_recorded_at_its_second_coming(classifier):
    """A function that runs the work again stands for a graph: both know their own tensors alone."""
    forward, made = RecordedForward([classifier], 22), []

    def record(work):
        made.append(work)
        return work

    batches = [batch_of(3, 5), batch_of(4, 9), batch_of(3, 12), batch_of(2, 20), batch_of(4, 3)]
    with torch.no_grad():
        plain = [classifier(**batch).logits for batch in batches]
    assert torch.equal(forward(batches[0], 0, record), plain[0])  # nothing is recorded on a CPU
    forward.recordings.wanted = True
    for batch, logits in zip(batches, plain):
        assert torch.allclose(forward(batch, 0, record), logits, atol=1e-6)
    assert len(made) == 1  # [4, 16] came four times, [2, 22] once


def test_what_cannot_be_recorded_is_computed(classifier):
    forward, batch = RecordedForward([classifier], 22), batch_of(3, 5)
    forward.recordings.wanted = True
    plain = forward(batch, 0, lambda work: None)
    for _ in range(3):
        assert torch.allclose(forward(batch, 0, lambda work: None), plain, atol=1e-6)
    assert not forward.recordings.wanted


def test_few_shapes_are_kept(classifier):
    forward = RecordedForward([classifier], 22)
    forward.recordings.wanted = True
    for rows in range(64, 64 * (forward.recordings.most + 4), 64):
        forward(batch_of(rows, 2), 0, lambda work: work)
    assert forward.recordings.shapes <= forward.recordings.most


def test_the_shapes_that_are_kept_are_the_last_ones(classifier):
    forward, made = RecordedForward([classifier], 22), []
    forward.recordings.wanted, forward.recordings.most = True, 2

    def come(rows: int) -> None:
        forward(batch_of(rows, 2), 0, lambda work: (made.append(rows), work)[1])

    for rows in (1, 1, 2, 2, 1, 4, 4, 1):  # 1 came after 2, so 2 makes room for 4
        come(rows)
    assert made == [1, 2, 4]
    come(2)
    come(2)
    assert made == [1, 2, 4, 2]
