"""The model's thread by itself: replies that are sent a step after the evaluators were asked, and who joins when."""

import queue
import time
from dataclasses import replace

import pytest

from scoring.scorer import AskedScores
from server import scheduler
from server.jobs import Failed, Finished, Job, writings_of
from server.metrics import Metrics
from server.scheduler import ON_CPU, ON_GPU, Capacity, Scheduler
from server.slots import RowBatch

QUESTION = "My bread did not rise. What shall I do?"


@pytest.fixture
def started(served_model, monkeypatch):
    """Starts a scheduler with other settings than a CPU's; it ends with the test."""
    made = []

    def start(rows: int = 32, **patience) -> Scheduler:
        monkeypatch.setattr(scheduler, "ON_CPU", replace(ON_CPU, **patience))
        made.append(Scheduler(served_model, Capacity(rows)))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()


def job_of(model, seed: int, events: queue.Queue, n: int = 1, candidates: int = 1, length: int = 12) -> Job:
    target = model.target("lyrical")
    control, decoding = model.settings(
        None, {"seed": seed, "candidates": candidates, "max_new_tokens": length}
    )
    turns = (QUESTION,)
    return Job(
        f"client {seed}", turns, target, {name: model.weights[name] for name in target}, decoding,
        writings_of(turns, target, control, n), lambda event: events.put((seed, event)),
    )  # fmt: skip


def replies(events: queue.Queue, count: int) -> dict:
    """The replies by seed and index."""
    found = {}
    for _ in range(count):
        seed, event = events.get(timeout=60)
        assert isinstance(event, Finished), event
        found[seed, event.index] = event.reply
    return found


def test_replies_that_are_sent_later_are_the_library_s(started, served_model):
    """Rows of different length end in different steps; those of the last have no step behind them."""
    one, events = started(answer_later=True, scored_at_once=1, score_within=1), queue.Queue()
    shapes = [(1, 1, 12), (2, 1, 5), (1, 3, 8), (2, 2, 3)]
    for seed, (n, candidates, length) in enumerate(shapes):
        one.submit(job_of(served_model, 10 * seed, events, n, candidates, length))
    found = replies(events, sum(n for n, _, _ in shapes))
    for number, (n, candidates, length) in enumerate(shapes):
        for index in range(n):
            options = {"seed": 10 * number + index, "candidates": candidates, "max_new_tokens": length}
            wanted = served_model.reply(QUESTION, "lyrical", **options)[0]
            own = found[10 * number, index]
            assert (own.text, own.candidate, own.predicted) == (
                wanted.text,
                wanted.candidate,
                wanted.predicted,
            )
            assert own.coherence == pytest.approx(wanted.coherence, abs=1e-5)
            assert own.energy == pytest.approx(wanted.energy, abs=1e-3)
            assert own.latent == pytest.approx(wanted.latent, abs=1e-4)
    assert one.metrics.part_totals()["answering"] > 0


def test_a_mistake_while_answering_is_that_reply_s_alone(started, served_model, monkeypatch):
    one, events = started(answer_later=True, scored_at_once=1, score_within=1), queue.Queue()
    write, broken = AskedScores.write, []

    def once(asked):
        if not broken:
            broken.append(asked)
            raise RuntimeError("a number that is none")
        write(asked)

    monkeypatch.setattr(AskedScores, "write", once)
    for seed, length in enumerate((3, 12)):
        one.submit(job_of(served_model, seed, events, length=length))
    came = dict(events.get(timeout=60) for _ in range(2))
    assert isinstance(came[0], Failed) and isinstance(came[1], Finished)
    assert one.rows == 0 and one.alive


def test_who_leaves_while_the_evaluators_read_is_told_nothing(started, served_model, monkeypatch):
    one, events = started(answer_later=True, scored_at_once=1, score_within=1), queue.Queue()
    short = job_of(served_model, 0, events, length=2)
    ask = Scheduler._ask

    def leave(self, due):
        if any(job is short for job, _ in due):
            self.cancel(short)
        return ask(self, due)

    monkeypatch.setattr(Scheduler, "_ask", leave)
    one.submit(short)
    one.submit(job_of(served_model, 1, events))
    assert set(replies(events, 1)) == {(1, 0)}
    time.sleep(0.1)
    assert events.empty() and not one._running


def test_jobs_wait_for_one_another_until_they_are_enough(started, served_model, monkeypatch):
    joined, join, step = [], RowBatch.join, RowBatch.step
    monkeypatch.setattr(RowBatch, "join", lambda batch, rows: (joined.append(len(rows)), join(batch, rows)))
    one, events = started(join_within=1000, join_at_once=3), queue.Queue()

    def slow(batch):  # so that all are there before the first has ended
        time.sleep(0.05)
        step(batch)

    monkeypatch.setattr(RowBatch, "step", slow)
    one.submit(job_of(served_model, 0, events))
    while not joined:
        time.sleep(0.01)
    for seed in (1, 2, 3):
        one.submit(job_of(served_model, seed, events))
    replies(events, 4)
    assert joined == [1, 3]


def test_steps_before_joining_can_be_chosen(served_model):
    assert Scheduler(served_model, Capacity(8, join_within=3)).patience == replace(ON_CPU, join_within=3)
    assert ON_GPU.join_within == 8 and ON_GPU.answer_later and not ON_CPU.answer_later


def test_a_part_within_a_part_is_counted_once():
    metrics = Metrics()
    began = time.monotonic()
    with metrics.part("outer"):
        time.sleep(0.02)
        with metrics.part("inner"):
            time.sleep(0.05)
    whole, found = time.monotonic() - began, metrics.part_totals()
    assert found["inner"] >= 0.05 and found["outer"] >= 0.02
    assert found["inner"] + found["outer"] <= whole
