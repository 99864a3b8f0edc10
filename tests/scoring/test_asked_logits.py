"""Logits that are asked for together are those of every classifier and every text by itself."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from model.graphs import Recordings
from scoring.asked_logits import AskedLogits, Reading
from scoring.recorded_forward import RecordedForward


@pytest.fixture
def classifiers():
    """Two of them, with two and three labels."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 40,
    }  # fmt: skip
    return [BertForSequenceClassification(BertConfig(num_labels=n, **settings)).eval() for n in (2, 3)]


def rows_of(count: int) -> list[dict]:
    source = torch.Generator().manual_seed(count)
    lengths = [1 + 7 * number % 33 for number in range(count)]
    ids = [torch.randint(1, 50, (length,), generator=source).tolist() for length in lengths]
    return [{"input_ids": row, "token_type_ids": [0] * len(row)} for row in ids]


def alone(model, rows) -> np.ndarray:
    with torch.no_grad():
        found = [model(**{k: torch.tensor([v]) for k, v in row.items()}).logits[0] for row in rows]
    return torch.stack(found).double().numpy()


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("count", [1, 9, 21])
def test_logits_of_several_classifiers_in_one_piece(classifiers, records, count, monkeypatch):
    """A function that runs the work again, into the same memory, stands for a graph."""
    plain = Recordings.__call__
    monkeypatch.setattr(Recordings, "__call__", lambda self, inputs, record=None: plain(self, inputs, lambda work: work))  # fmt: skip
    both, second = RecordedForward(classifiers, 36), RecordedForward(classifiers[1:], 36)
    both.recordings.wanted = second.recordings.wanted = records
    rows, others = rows_of(count), rows_of(count + 3)
    for _ in range(3):  # seen, recorded, run again
        found = AskedLogits([Reading(rows, both, 0), Reading(others, second, 0)], batch_size=8).fetch()
        wanted = np.concatenate([alone(model, rows) for model in classifiers], axis=1)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
        np.testing.assert_allclose(found[1], alone(classifiers[1], others), atol=1e-5)
    assert bool(both.recordings.shapes) is records


def test_recorded_batches_are_equally_large(classifiers):
    forward = RecordedForward(classifiers, 36)
    reading = Reading(rows_of(21), forward, 0)
    assert [len(batch) for batch in reading.batches(8)] == [8, 8, 5]
    forward.recordings.wanted = True
    assert [len(batch) for batch in reading.batches(8)] == [7, 7, 7]
    assert Reading([], forward, 0).batches(8) == []


def test_nothing_asked_is_nothing_found(classifiers):
    assert AskedLogits([]).fetch() == []
    (found,) = AskedLogits([Reading([], RecordedForward(classifiers, 36), 0)]).fetch()
    assert len(found) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_fetched_late_is_not_what_was_asked_later(classifiers):
    """Passes of the same shape, recorded at their second coming, write into the same memory."""
    rows = [rows_of(count)[::-1] for count in (21, 22, 23, 24)]
    wanted = [np.concatenate([alone(model, some) for model in classifiers], axis=1) for some in rows]
    forward = RecordedForward([model.cuda() for model in classifiers], 36)
    for _ in range(3):
        asked = [AskedLogits([Reading(some, forward, 0)], batch_size=8) for some in rows]
        for one, logits in zip(asked, wanted):
            np.testing.assert_allclose(one.fetch()[0], logits, atol=2e-3)
    assert forward.recordings.wanted and forward.recordings.shapes
