"""Many tasks at once: bounded concurrency, a cost limit, progress, and an end that loses nothing."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
from tqdm import tqdm

from dataset.synthesis.costs import Meter
from dataset.synthesis.journal import Journal
from dataset.synthesis.outcome import Outcome, outcome_of
from dataset.synthesis.service import LONG_PATIENCE, PATIENCE, OutOfService, Service, Unavailable
from dataset.synthesis.tasks import Task


@dataclass
class Run:
    """The state of one run.

    Attributes:
        max_cost: dollars that no request may lead beyond; None: no limit.
        stopped: why no more requests are made; None while they are.
        failures: how often the service gave no answer, by reason.
        unanswered: requests that a batch brought no answer to; they are not put into another one in this run.
        outcome_of: what a task's answers in the journal amount to.
        unit: what is counted, for the bar.
    """

    journal: Journal
    service: Service
    meter: Meter
    concurrency: int = 8
    max_cost: float | None = None
    stopped: str | None = None
    failures: Counter = field(default_factory=Counter)
    error: OutOfService | None = None
    under_way: int = 0
    missed: int = 0  # requests in a row, of different tasks, that got no answer
    unanswered: set[str] = field(default_factory=set)
    outcome_of: Callable[[Any, Journal], Any] = outcome_of
    unit: str = "dialogues"

    def stop(self, reason: str) -> None:
        """Make no more requests; those under way are waited for. The first reason counts."""
        self.stopped = self.stopped or reason

    def may_ask(self, task: Task) -> bool:
        """Whether another request keeps within the cost limit, those under way counted as well."""
        if (
            self.max_cost is not None
            and self.meter.dollars + (self.under_way + 1) * self.meter.expected_dollars(task) > self.max_cost
        ):
            self.stop(f"the next request could lead beyond ${self.max_cost:g}")
        return self.stopped is None

    async def settle(self, task: Task) -> Outcome:
        """Ask for a task until it is kept or rejected, or until no more requests are made."""
        outcome = self.outcome_of(task, self.journal)
        while outcome.next_attempt is not None and self.may_ask(task):
            self.under_way += 1
            try:
                answer = await self.service.ask(task, outcome.next_attempt, outcome.last, outcome.reason)
            except Unavailable as error:
                self.failures[str(error)] += 1
                self.miss(error)
                break
            except OutOfService as error:
                self.error = self.error or error
                self.stop(str(error))
                break
            finally:
                self.under_way -= 1
            self.missed = 0
            self.meter.add(answer)
            outcome = self.outcome_of(task, self.journal)
        return outcome

    def miss(self, error: Unavailable) -> None:
        """Count a request without an answer; after some in a row the service is taken for out of order, and the run ends.

        Nothing is rejected by that: the tasks stay open, and the same command goes on with them.
        """
        self.missed += 1
        unreachable = isinstance(error.__cause__, openai.APIConnectionError) and not isinstance(
            error.__cause__, openai.APITimeoutError
        )
        patience = LONG_PATIENCE if self.service.answered else 1 if unreachable else PATIENCE
        if self.missed >= patience and self.stopped is None:
            times = f" ({self.missed} times in a row)" if self.missed > 1 else ""
            self.error = self.error or OutOfService(f"{error}{times}")
            self.stop(str(self.error))

    async def settle_all(self, tasks: list[Task]) -> None:
        """Settle every task. Ctrl-C stops making requests and waits for those under way; a second one leaves them.

        Raises:
            OutOfService: where the service will answer no request at all; what had been answered is kept.
        """
        remaining = iter(tasks)
        bar = tqdm(
            total=len(tasks),
            desc=self.unit,
            unit="",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 60,
        )

        async def work() -> None:
            for task in remaining:
                if self.stopped:
                    return
                outcome = await self.settle(task)
                bar.update(outcome.next_attempt is None)
                bar.set_postfix_str(self.progress(bar.total - bar.n, task), refresh=False)

        with interruptible(self):
            while (
                not (self.service.format_known and self.service.answered)
                and not self.stopped
                and (first := next(remaining, None)) is not None
            ):
                outcome = await self.settle(
                    first
                )  # alone: it finds out whether the server answers, and in which format
                bar.update(outcome.next_attempt is None)
            await asyncio.gather(*(work() for _ in range(self.concurrency)))
        bar.close()
        if self.error is not None:
            raise self.error

    def progress(self, left: int, task: Task) -> str:
        """Tokens and dollars so far, and the dollars to expect at the end."""
        expected = (
            f" of about ${self.meter.dollars + left * self.meter.expected_dollars(task):.2f}"
            if self.meter.price
            else ""
        )
        return f"{self.meter}{expected}"


class interruptible:
    """While active, the first Ctrl-C stops a run gently and the second raises `KeyboardInterrupt`."""

    def __init__(self, run: Run):
        self.run = run

    def __enter__(self) -> None:
        self.before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, *args) -> None:
        if self.run.stopped:
            raise KeyboardInterrupt
        tqdm.write(
            f"interrupted: waiting for {self.run.under_way} requests under way (they are paid for); Ctrl-C again leaves them"
        )
        self.run.stop("interrupted")

    def __exit__(self, *error) -> None:
        signal.signal(signal.SIGINT, self.before)
