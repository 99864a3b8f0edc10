"""Rows that join and leave between steps write what `generate` writes of each alone."""

import pytest
import torch

from common.rounding import rounded_rows
from generation.decoding import Rules, generate
from model.graphs import Recordings
from model.noise import generator
from server.slots import DecodingRow, RowBatch, StepGraph, wider

EOS, PAD, LONGEST = 0, 1, 6


@pytest.fixture
def decoder_of(make_decoder):
    """A tiny decoder in fp64: a random model's probabilities lie so close that fp32's rounding in another batch turns a draw now and then."""
    return lambda kind: make_decoder(kind).double()


def rules(**changes) -> Rules:
    plain = {
        "decoding": "top_p", "top_p": 0.9, "temperature": 1.0, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0,
        "guidance": 1.0, "plausibility": 0.0,
    }  # fmt: skip
    return Rules(EOS, **plain | changes)


def rows_of(count: int, settings: list[Rules], longest=(LONGEST,)) -> list[DecodingRow]:
    source = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        own, length = settings[number % len(settings)], longest[number % len(longest)]
        prompt = torch.randint(2, 320, (3 + 5 * (number % 4),), generator=source).tolist()
        z, reference = torch.randn(2, 8, generator=source, dtype=torch.float64)
        uniforms = torch.rand(length, generator=generator(number, "c", "t", "decoding")).tolist()
        made.append(DecodingRow(prompt, z, own, length, None if own.guidance == 1.0 else reference, uniforms))
    return made


def alone(decoder, row: DecodingRow, number: int) -> list[int]:
    """What the library's own loop writes."""
    own = row.rules
    return generate(
        decoder, row.z.unsqueeze(0), torch.tensor([row.prompt]), torch.ones(1, len(row.prompt), dtype=torch.long),
        eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=row.longest, decoding=own.decoding, top_p=own.top_p,
        temperature=own.temperature, sources=[generator(number, "c", "t", "decoding")],
        no_repeat_ngram_size=own.no_repeat_ngram_size, repetition_penalty=own.repetition_penalty,
        reference=None if row.reference is None else row.reference.unsqueeze(0), guidance=own.guidance,
        plausibility=own.plausibility, context_block_ngram=own.context_block_ngram,
    )[0]  # fmt: skip


def write(batch: RowBatch, waiting: list[DecodingRow], every: int, at_once: int) -> None:
    """Steps until all rows have ended; `at_once` of them join every so many steps."""
    waiting, steps = list(waiting), 0
    while waiting or batch.rows:
        if waiting and steps % every == 0:
            batch.join(waiting[:at_once])
            waiting = waiting[at_once:]
        elif batch.rows:
            batch.step()
        batch.leave([row for row in batch.rows if row.ended])
        steps += 1


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", [rules()]),
        pytest.param("llama", [rules(decoding="greedy", no_repeat_ngram_size=2)], marks=pytest.mark.slow),
        (
            "gpt2",
            [
                rules(no_repeat_ngram_size=3, temperature=0.4),
                rules(repetition_penalty=1.5),
                rules(decoding="greedy"),
            ],
        ),
        ("llama", [rules(guidance=2.0, plausibility=0.05), rules(no_repeat_ngram_size=1)]),
        ("gpt2", [rules(context_block_ngram=1), rules(context_block_ngram=2, no_repeat_ngram_size=2)]),
    ],
    ids=["top_p", "greedy", "mixed", "guided", "not said before"],
)
def test_whoever_joins_and_leaves_each_row_is_as_alone(decoder_of, kind, settings):
    decoder, rows = decoder_of(kind), rows_of(7, settings, longest=(LONGEST, 3, 5))
    write(RowBatch(decoder, PAD, torch.device("cpu")), rows, every=2, at_once=3)
    expected = [alone(decoder, row, number) for number, row in enumerate(rows)]
    assert [row.written for row in rows] == expected
    assert len({tuple(written) for written in expected}) > 4 and any(row.ended == "length" for row in rows)


def test_a_row_that_is_no_longer_wanted_leaves_the_others_as_they_are(decoder_of):
    decoder, rows = decoder_of("llama"), rows_of(6, [rules()])
    batch = RowBatch(decoder, PAD, torch.device("cpu"))
    batch.join(rows)
    batch.step()
    dropped = [rows[0], rows[3]]
    before = [list(row.written) for row in dropped]
    batch.leave([row for row in rows if row.ended or row in dropped])
    write(batch, [], every=1, at_once=1)
    assert [row.written for row in dropped] == before
    for number, row in enumerate(rows):
        if row not in dropped:
            assert row.written == alone(decoder, row, number)


def test_rows_end_at_the_end_of_sequence_token_and_at_their_length():
    row = DecodingRow([5], torch.zeros(8), rules(), 2)
    row.take(7)
    assert row.written == [7] and not row.ended
    row.take(9)
    assert row.ended == "length"
    other = DecodingRow([5], torch.zeros(8), rules(), 2)
    other.take(EOS)
    assert other.ended == "stop" and other.written == []


@pytest.mark.slow
def test_the_cache_grows_and_keeps_what_it_has(decoder_of):
    """Rows with longer prompts than any before join while others are under way."""
    decoder, rows = decoder_of("gpt2"), rows_of(10, [rules()], longest=(9,))
    rows[-1].prompt = (rows[-1].prompt * 20)[:70]
    batch = RowBatch(decoder, PAD, torch.device("cpu"))
    write(batch, rows, every=1, at_once=1)
    assert batch._cache.slots >= 9 and batch._cache.room == 128
    assert [row.written for row in rows] == [alone(decoder, row, n) for n, row in enumerate(rows)]


def test_a_recorded_step_reads_more_slots_and_columns_and_writes_the_same(decoder_of, monkeypatch):
    """On a GPU steps are graphs of rounded sizes; here a function that runs the work again stands for the recorded one."""
    plain, run = [], StepGraph.run
    monkeypatch.setattr(
        StepGraph, "run", lambda self, *words: run(self, *words, lambda work: plain.append(work) or work)
    )
    decoder, rows = decoder_of("llama"), rows_of(5, [rules(), rules(guidance=2.0)])
    batch = RowBatch(decoder, PAD, torch.device("cpu"))
    batch._graphs_wanted = True
    write(batch, rows, every=2, at_once=2)
    assert plain and [row.written for row in rows] == [alone(decoder, row, n) for n, row in enumerate(rows)]
    assert [rounded_rows(n) for n in (1, 2, 3, 8, 9, 64, 65, 200)] == [1, 2, 4, 8, 16, 64, 128, 256]


def test_prompts_read_by_rounded_shape_leave_the_same_in_their_slots(decoder_of, monkeypatch):
    """Every prompt's reading is recorded at the second coming of its shape, and forgotten where the cache moves."""
    made, call = [], Recordings.__call__
    monkeypatch.setattr(
        Recordings,
        "__call__",
        lambda self, inputs: call(self, inputs, lambda work: made.append(work) or work),
    )
    decoder = decoder_of("llama")
    batch = RowBatch(decoder, PAD, torch.device("cpu"))
    batch._reads.wanted = True
    for _ in range(3):
        rows = rows_of(9, [rules(), rules(guidance=2.0)])
        write(batch, rows, every=2, at_once=2)
        assert [row.written for row in rows] == [alone(decoder, row, n) for n, row in enumerate(rows)]
    assert made
    shapes = batch._reads.shapes
    long = rows_of(4, [rules()])
    long[3].prompt = (long[3].prompt * 20)[:90]
    write(batch, long, every=1, at_once=1)
    assert [row.written for row in long] == [alone(decoder, row, n) for n, row in enumerate(long)]
    assert batch._cache.room == 128 and 0 < batch._reads.shapes <= shapes


def test_wider_prompts_have_padding_in_front_and_their_last_row_again():
    inputs = {"ids": torch.tensor([[PAD, 5], [6, 7]]), "mask": torch.tensor([[0, 1], [1, 1]]), "z": torch.eye(2), "slots": torch.tensor([3, 4])}  # fmt: skip
    found = wider(inputs, 4, 3, PAD)
    assert found["ids"].tolist() == [[PAD, PAD, 5], [PAD, 6, 7], [PAD, 6, 7], [PAD, 6, 7]]
    assert found["mask"].tolist() == [[0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 1, 1]]
    assert found["slots"].tolist() == [3, 4, 4, 4] and torch.equal(found["z"][1:], torch.eye(2)[[1, 1, 1]])
