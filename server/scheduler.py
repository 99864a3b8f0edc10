"""The thread that owns the model: takes jobs in, writes a token of every row, chooses, scores, and tells what has happened.

Between two steps rows that have ended or are no longer wanted leave, and waiting ones join; all of these are written
together whatever their targets, strengths and rules. What a job gets is what `Miracle.reply` gives for the same
arguments and seed: requests, noise, prompts and the choice among candidates are the library's own.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from common.errors import InputError
from dataset.encoding import Cut
from generation.choosing import CandidateScores
from generation.decoding import Rules
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from miracle import Miracle, Reply
from model.noise import generator
from scoring.scorer import AskedScores
from server.errors import Refused
from server.jobs import Added, Failed, Finished, Job, KnownLatents, PendingReply, joined
from server.metrics import Metrics
from server.slots import DecodingRow, RowBatch
from server.text import GrowingText
from server.waiting import WaitingLine

logger = logging.getLogger(__name__)

SMOOTHING = 0.1  # of the moving average of the seconds between two jobs that end


@dataclass(frozen=True)
class Capacity:
    """How much is taken in.

    Attributes:
        rows: written together.
        waiting, waiting_per_client: jobs in the queue.
        join_within: see `Patience`; None for what suits the device.
    """

    rows: int
    waiting: int = 256
    waiting_per_client: int = 64
    join_within: int | None = None

    def check(self, rows: int) -> None:
        """Raises `Refused` with 400 for more rows of one job than are ever written together."""
        if rows > self.rows:
            raise Refused(
                f"n times candidates is over {self.rows}, the most that this server writes together",
                param="n",
            )


@dataclass(frozen=True)
class Patience:
    """How long jobs wait for one another between two steps.

    Attributes:
        join_within: steps that pass at most, while others are written, before waiting jobs join.
        join_at_once: rows of waiting jobs for which there is room, and for which jobs do not wait any longer.
        prefill: prompt tokens that join at once; the others would wait for them.
        read_at_once: candidates that are read together where one of them is chosen; None for as many as the run says.
        scored_at_once: written replies for which the evaluators do not wait any longer.
        score_within: steps that a written reply waits at most.
        answer_later: what is to be done for replies that have ended is done while the device computes the next step, and
            they are sent in the one after, when the evaluators' numbers have come.
    """

    join_within: int
    join_at_once: int
    prefill: int
    read_at_once: int | None
    scored_at_once: int
    score_within: int
    answer_later: bool


ON_CPU = Patience(1, 1, 2048, None, 8, 4, False)  # reading a prompt takes as long for each of many as for one
# a step is soon done there; latents, prompts and scores take little longer for many than for one
ON_GPU = Patience(8, 64, 16384, 512, 64, 8, True)


@dataclass
class Asked:
    """Replies that the evaluators are reading.

    Attributes:
        rows: of each, context and response; the evaluators' numbers come to them.
        scores: what brings these; None where nobody reads.
    """

    due: list[tuple[Job, PendingReply]]
    rows: list[dict]
    scores: AskedScores | None


class Scheduler:
    """Writes the jobs' replies; every method may be called from any thread."""

    def __init__(self, model: Miracle, capacity: Capacity, metrics: Metrics | None = None):
        self.model, self.capacity, self.metrics = model, capacity, metrics or Metrics()
        self.patience = ON_GPU if model.generator.device.type == "cuda" else ON_CPU
        if capacity.join_within is not None:
            self.patience = replace(self.patience, join_within=capacity.join_within)
        tokenizer = model.generator.decoder_tokenizer
        self._eos, self._pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._line = WaitingLine(capacity.waiting, capacity.waiting_per_client)
        self._changed = threading.Condition()
        self._closing = False
        self._calls: list[tuple[Callable[[], Any], Future]] = []
        self._running: list[Job] = []
        self._written: list[
            tuple[Job, PendingReply, int]
        ] = []  # not scored yet, with the step at which it ended
        self._ended: list[Job] = []  # with rows that had ended before the step under way
        self._asked: list[Asked] = []
        self._unanswered: list[tuple[str, list[Job], Exception]] = []  # what failed, and for whom
        self._steps = 0
        self._joined = 0  # the step before which jobs joined last
        self._last_end = time.monotonic()
        self._batches: dict[str, RowBatch] = {}  # by precision, which in practice is one
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def end(self) -> None:
        """End after the step under way, which is not waited for; jobs that are not finished fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """The same, and wait for it."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        with self._changed:
            return len(self._line)

    @property
    def rows(self) -> int:
        """Rows that are being written."""
        return sum(len(batch.rows) for batch in list(self._batches.values()))

    def submit(self, job: Job) -> None:
        """Take a job in; its listener is called from now on.

        Raises:
            Refused: with 429 where the queue is full, with 400 for more rows than are ever written together.
        """
        self.capacity.check(job.size)
        with self._changed:
            if self._closing:
                raise Refused("the server is ending", 503, code="ending", retry_after=5)
            self._line.put(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody wants this job any more: it leaves before the next step, and its listener is not called again."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def call(self, work: Callable[[], Any]) -> Future:
        """Have something else done that needs the model, between two steps; the future has what it returns."""
        future: Future = Future()
        with self._changed:
            if self._closing:
                raise Refused("the server is ending", 503, code="ending", retry_after=5)
            if len(self._calls) >= self.capacity.waiting:
                raise Refused("too many requests are waiting", 429, code="queue_full", retry_after=5)
            self._calls.append((work, future))
            self._changed.notify()
        return future

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or len(self._line) or self._running or self._calls):
                    self._changed.wait()
                if self._closing:
                    break
                calls, self._calls = self._calls, []
                new = self._taken()
            for work, future in calls:
                self._do(work, future)
            self._drop_cancelled()
            if new:
                with self.metrics.part("beginning"):
                    self._begin(new)
                self._joined = self._steps
            with self.metrics.part("writing"):
                self._step()
            if not (self.patience.answer_later and self.rows):
                self._conclude()
                self._answer_all(self._taken_asked())
            self._fail_unanswered()
            self._observe()
        for job in [*self._running, *self._line.all()]:
            self._fail(job, Refused("the server ended", 503, code="ending", retry_after=5))
        for _, future in self._calls:
            future.cancel()

    def _do(self, work: Callable[[], Any], future: Future) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except Exception as error:  # raised again where it was asked for
                future.set_exception(error)

    def _taken(self) -> list[Job]:
        """Jobs that join now."""
        room, patience = self.capacity.rows - sum(job.size for job in self._running), self.patience
        waits = bool(self.rows) and self._steps - self._joined < patience.join_within
        if waits and min(room, self._line.rows) < patience.join_at_once:
            return []
        running: dict[str, int] = {}
        for job in self._running:
            running[job.client] = running.get(job.client, 0) + job.size
        prefill = 0

        def more(job: Job) -> bool:
            nonlocal prefill
            prefill += job.size * self._prompt_estimate(job)
            return prefill <= patience.prefill

        return self._line.take(running, room, more)

    def _prompt_estimate(self, job: Job) -> int:
        return min(self.model.generator.config.decoder_length, sum(map(len, job.turns)) // 4)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._running if job.cancelled]:
            self._remove(job)
            self.metrics.cancelled.inc()

    def _remove(self, *jobs: Job) -> None:
        gone_jobs = set(jobs)
        self._running = [job for job in self._running if job not in gone_jobs]
        self._written = [entry for entry in self._written if entry[0] not in gone_jobs]
        gone = [row for job in jobs for writing in job.writings for row in writing.rows if not row.ended]
        if gone:  # those that have ended leave before the next step
            for batch in self._batches.values():
                batch.leave(gone)

    def _fail(self, job: Job, error: Exception) -> None:
        self._remove(job)
        self._tell(job, Failed(error))

    def _tell(self, job: Job, event: Added | Finished | Failed) -> None:
        if job.cancelled:
            return
        try:
            job.listener(event)
        except Exception:  # its loop is gone: nobody listens any more
            job.cancelled = True

    def _begin(self, jobs: list[Job]) -> None:
        """Latents and prompts of new jobs; one that cannot be begun fails alone."""
        jobs = [job for job in jobs if not job.cancelled]
        try:
            self._prepare(jobs)
        except Exception as error:
            for job in jobs:
                self._remove(job)
            if len(jobs) == 1:
                self._failed_at("beginning", jobs, error)
            else:
                for job in jobs:
                    self._begin([job])

    def _failed_at(self, doing: str, jobs: list[Job], error: Exception) -> None:
        if not isinstance(error, (InputError, Refused)):
            logger.error("%s %d jobs: %s", doing, len(jobs), type(error).__name__, exc_info=error)
        for job in jobs:
            self._fail(job, error)

    def _prepare(self, jobs: list[Job]) -> None:
        groups: dict[object, list[tuple[Job, PendingReply]]] = {}
        for job in jobs:
            for writing in job.writings:
                key = solved_together(writing.control), job.decoding.batch_size
                groups.setdefault(key, []).append((job, writing))
        for members in groups.values():
            requests = [request for _, writing in members for request in writing.requests]
            own = [writing.control for _, writing in members for _ in writing.requests]
            sample = self.model.generator.latents(requests, own[0], members[0][0].decoding.batch_size, own)
            known, begin = KnownLatents.of(sample), 0
            for _, writing in members:
                writing.found, writing.known, writing.first = sample, known, begin
                begin += len(writing.requests)
        self._read_prompts(jobs)
        for job in jobs:
            self._make_rows(job)
        for precision in dict.fromkeys(job.decoding.precision for job in jobs):
            rows = [
                row
                for job in jobs
                if job.decoding.precision == precision
                for writing in job.writings
                for row in writing.rows
            ]
            self._batch(precision, jobs).join(rows)
        self._running += jobs

    def _batch(self, precision: str, jobs: list[Job]) -> RowBatch:
        how = next(job.decoding for job in jobs if job.decoding.precision == precision)
        decoder = self.model.generator.decoder(how)
        if precision not in self._batches:
            device = self.model.generator.device
            self._batches[precision] = RowBatch(decoder, self._pad, device, self._meanwhile)
        return self._batches[precision]

    def _read_prompts(self, jobs: list[Job]) -> None:
        """The jobs' prompts as tokens, and what they leave out."""
        made = self.model.generator
        groups: dict[int, list[Job]] = {}
        for job in jobs:
            groups.setdefault(made.prompt_room(job.decoding), []).append(job)
        for room, members in groups.items():
            prompts, cuts = made.prompts([job.turns for job in members], members[0].decoding)
            for job, prompt, cut in zip(members, prompts, cuts):
                if job.dropped:
                    cut = Cut(job.dropped, 0, room) if cut is None else replace(cut, turns=cut.turns + job.dropped)  # fmt: skip
                job.prompt, job.cut = prompt, cut

    def _make_rows(self, job: Job) -> None:
        made, how = self.model.generator, job.decoding
        rules = Rules(
            self._eos, how.decoding, how.top_p, how.temperature, how.no_repeat_ngram_size,
            how.repetition_penalty, how.guidance, how.plausibility, how.context_block_ngram,
        )  # fmt: skip
        rules = one_of_equal(rules)
        for writing in job.writings:
            assert writing.found is not None
            z, reference, first = writing.found.z, writing.found.reference, writing.first
            writing.rows = [
                DecodingRow(
                    job.prompt,
                    z[first + place],
                    rules,
                    how.max_new_tokens,
                    reference[first + place] if how.guidance != 1.0 and reference is not None else None,
                    uniforms_of(writing, place, how),
                    owner=job,
                )
                for place in range(len(writing.requests))
            ]
            writing.growing = [GrowingText(made.decoder_tokenizer, job.stops) for _ in writing.rows]

    def _step(self) -> None:
        """The texts so far to those who stream, then the next token of every row that goes on."""
        began, stepped = time.monotonic(), False
        for job in list(self._running):
            if job.stream or job.stops:
                self._look_at(job)
        self._ended = self._with_ended_rows()
        for batch in self._batches.values():
            batch.leave([row for row in batch.rows if row.ended])
            if not batch.rows:
                continue
            try:
                batch.step()
                stepped = True
            except Exception as error:
                batch.clear()
                self._failed_at("writing", list(self._running), error)
        self._steps += 1
        if stepped:
            self.metrics.step_seconds.observe(time.monotonic() - began)

    def _with_ended_rows(self) -> list[Job]:
        owners = {row.owner for batch in self._batches.values() for row in batch.rows if row.ended}
        return [job for job in self._running if job in owners]

    def _look_at(self, job: Job) -> None:
        """Stop strings, text to be streamed, and replies whose candidates have all ended."""
        for writing in job.writings:
            if writing.texts or not writing.rows:
                continue
            for row, growing in zip(writing.rows, writing.growing):
                if job.stops and not row.ended and growing.read(row.written)[1]:
                    row.ended = "stop"
            if (
                job.stream
                and len(writing.rows) == 1
                and (added := writing.growing[0].more(writing.rows[0].written))
            ):
                self._tell(job, Added(writing.index, added))
            if writing.ended:
                writing.texts = [
                    growing.read(row.written)[0] for row, growing in zip(writing.rows, writing.growing)
                ]
                self._written.append((job, writing, self._steps))

    def _due(self) -> list[tuple[Job, PendingReply]]:
        """Replies that are chosen and scored now: together, as that is cheaper, unless one has waited for some steps."""
        if not self._written:
            return []
        oldest = self._written[0][2]
        patience = self.patience
        if (
            self.rows
            and len(self._written) < patience.scored_at_once
            and self._steps - oldest < patience.score_within
        ):
            return []
        due, self._written = [(job, writing) for job, writing, _ in self._written], []
        return due

    def _meanwhile(self) -> None:
        """What is done while the device computes a step. No row leaves for it: those of whom it is about have ended."""
        if self.patience.answer_later:
            asked = self._taken_asked()
            self._conclude()
            self._answer_all(asked)

    def _taken_asked(self) -> list[Asked]:
        asked, self._asked = self._asked, []
        return asked

    def _conclude(self) -> None:
        """The texts of replies that have ended; for those that are due the choice among their candidates, and the evaluators
        are asked."""
        with self.metrics.part("choosing and scoring"):
            ended, self._ended = {*self._ended, *self._with_ended_rows()}, []
            for job in [job for job in self._running if job in ended]:
                self._look_at(job)
            due = [(job, writing) for job, writing in self._due() if not job.cancelled]
            if due:
                try:
                    self._choose(due)
                    self._asked.append(self._ask(due))
                except Exception as error:
                    self._unanswered.append(("choosing and scoring for", jobs_of(due), error))

    def _answer_all(self, asked: list[Asked]) -> None:
        """Send replies that the evaluators have been asked about."""
        if asked:
            with self.metrics.part("answering"):
                for one in asked:
                    try:
                        self._answer(one)
                    except Exception as error:
                        self._unanswered.append(("answering", jobs_of(one.due), error))

    def _fail_unanswered(self) -> None:
        """Jobs for which something failed meanwhile; their other rows leave."""
        unanswered, self._unanswered = self._unanswered, []
        for doing, jobs, error in unanswered:
            self._failed_at(doing, [job for job in jobs if job in self._running], error)

    def _answer(self, asked: Asked) -> None:
        if asked.scores is not None:
            asked.scores.write()
        running, now = set(self._running), time.monotonic()
        wanted = [
            (job, writing, self._finished(job, writing, found, now - job.came))
            for (job, writing), found in zip(asked.due, asked.rows)
            if not job.cancelled and job in running
        ]  # all of them before any is sent: what fails has not been answered
        done = []
        for job, writing, event in wanted:
            writing.answered = True
            self._tell(job, event)
            if all(other.answered for other in job.writings):
                done.append(job)
                self._note_end()
        self._remove(*done)

    def _finished(self, job: Job, writing: PendingReply, found: dict, seconds: float) -> Finished:
        """The event that a reply is written, of the evaluators' numbers."""
        reply, row, growing = (
            self._reply(job, writing, found, seconds),
            writing.rows[writing.kept],
            writing.growing[writing.kept],
        )
        written = sum(len(row.written) for row in writing.rows)
        reason = "stop" if job.stops and growing.read(row.written)[1] else row.ended
        return Finished(
            writing.index, growing.rest(reply.text), reply, reason, len(row.written), written, len(job.prompt)
        )

    def _note_end(self) -> None:
        now = time.monotonic()
        seconds, self._last_end = min(now - self._last_end, 60.0), now
        self._line.seconds_per_job += SMOOTHING * (seconds - self._line.seconds_per_job)

    def _choose(self, due: list[tuple[Job, PendingReply]]) -> None:
        """Which candidate of each reply is kept."""
        groups: dict[object, list[tuple[Job, PendingReply]]] = {}
        for job, writing in due:
            if len(writing.requests) > 1:
                control = writing.control
                key = (
                    job.decoding.batch_size,
                    job.decoding.precision,
                    control.fluency > 0 or control.relevance > 0,
                )
                groups.setdefault(key, []).append((job, writing))  # fmt: skip
        for (_, _, likelihoods), members in groups.items():
            how, at_once = members[0][0].decoding, self.patience.read_at_once
            scores = self.model.generator.candidate_scores(
                [request for _, writing in members for request in writing.requests],
                [text for _, writing in members for text in writing.texts],
                joined([writing.sample for _, writing in members]),
                how if at_once is None else replace(how, batch_size=at_once),
                likelihoods,
            )
            begin = 0
            for _, writing in members:
                end = begin + len(writing.requests)
                part = CandidateScores(*(None if s is None else s[begin:end] for s in vars(scores).values()))
                writing.kept = part.best(end - begin, writing.control.fluency, writing.control.relevance)[0]
                begin = end

    def _ask(self, due: list[tuple[Job, PendingReply]]) -> Asked:
        """Have the evaluators read the replies that were kept."""
        rows = [{"context": list(job.turns), "response": writing.texts[writing.kept]} for job, writing in due]
        scored = [row for (job, _), row in zip(due, rows) if job.scored]
        scorer = self.model.scorer
        return Asked(due, rows, scorer.ask(scored) if scorer is not None and scored else None)

    def _reply(self, job: Job, writing: PendingReply, row: dict, seconds: float) -> Reply:
        known, kept = writing.known, writing.first + writing.kept
        assert known is not None
        return Reply(
            row["response"], job.turns, job.target, job.weights, writing.control.seed, row.get("predicted"),
            row.get("probabilities"), row.get("nli"), known.energy_start[kept], known.energy[kept], seconds,
            True, writing.control, known.z[kept].copy(), writing.kept, job.cut,
        )  # fmt: skip

    def _observe(self) -> None:
        self.metrics.waiting.set(self.waiting)
        self.metrics.rows.set(self.rows)


def jobs_of(due: list[tuple[Job, PendingReply]]) -> list[Job]:
    """Whose replies these are, each once."""
    return list(dict.fromkeys(job for job, _ in due))


def solved_together(control: ControlArguments) -> tuple:
    """What the settings of requests have in common whose latents are found together: all but weights and seeds.

    Langevin dynamics draw noise of their own, one seed for all.
    """
    apart = ("weights",) if control.algorithm == "langevin" else ("weights", "seed")
    return tuple((name, value) for name, value in vars(control).items() if name not in apart)


@lru_cache(maxsize=64)
def one_of_equal(rules: Rules) -> Rules:
    """The same object for equal rules, which is quick to compare."""
    return rules


def uniforms_of(writing: PendingReply, place: int, how: DecodingArguments) -> list[float] | None:
    """The randomness of a candidate's tokens, as `ReplyGenerator.decode` draws it; None where nothing is sampled."""
    if how.decoding != "top_p":
        return None
    request: Request = writing.requests[place]
    source = generator(writing.control.seed, *request.key, "decoding")
    return torch.rand(how.max_new_tokens, generator=source).tolist()
