"""What the server's scheduler writes when many jobs are always under way, without HTTP. ``python -m scripts.bench_scheduler release/chat``

In one process: the model, the thread that owns it, and for each client a job, replaced by the next one as soon as it has
its reply, as `scripts.bench_server`'s clients ask. A thread of their own makes the jobs, as a request's handler does. The
difference between the two is what requests and their transport cost. ``parts`` are shares of the time of the model's
thread; ``--profile`` says which of its functions they go to.
"""

import argparse
import cProfile
import json
import pstats
import queue
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

from common.options import ROOT  # noqa: E402
from miracle import Miracle  # noqa: E402
from scripts.bench_server import QUESTIONS, request_body  # noqa: E402
from server.jobs import Event, Failed, Finished, Job, writings_of  # noqa: E402
from server.metrics import Metrics  # noqa: E402
from server.scheduler import Capacity, Scheduler  # noqa: E402
from server.settle import settle  # noqa: E402


class Profiled(Scheduler):
    """A scheduler whose thread is profiled while `wanted` is set."""

    def __init__(self, model: Miracle, capacity: Capacity, metrics: Metrics):
        super().__init__(model, capacity, metrics)
        self.profile, self.wanted, self._on = cProfile.Profile(), False, False

    def _observe(self) -> None:
        super()._observe()
        if self.wanted != self._on:
            self._on = self.wanted
            (self.profile.enable if self._on else self.profile.disable)()


class SteadyLoad:
    """Clients without a network.

    Attributes:
        latencies: seconds of every answered job; tokens, written: of the kept replies, and of all candidates.
    """

    def __init__(self, model: Miracle, scheduler: Scheduler, clients: int, candidates: int):
        self.model, self.scheduler, self.clients, self.candidates = model, scheduler, clients, candidates
        self._lock, self._under_way, self._over = threading.Condition(), 0, False
        self._next: queue.SimpleQueue[tuple[int, int, float]] = queue.SimpleQueue()
        threading.Thread(target=self._ask, name="clients", daemon=True).start()
        self.forget()

    def forget(self) -> None:
        """Count from here on."""
        self.latencies: list[float] = []
        self.tokens = self.written = self.failed = 0

    def _ask(self) -> None:
        """What the clients do: make a job of what is asked next, and submit it."""
        while True:
            self.scheduler.submit(self.job(*self._next.get()))

    def job(self, number: int, client: int, began: float) -> Job:
        """The `number`-th job, whose end begins the client's next one; `began` is when it was asked for."""
        body = request_body(number, f"client {client}", self.candidates)
        target = self.model.target(body["target"])
        control, decoding = self.model.settings(None, {"candidates": self.candidates, "seed": number})
        weights = {name: self.model.weights[name] for name in target}
        turns = (QUESTIONS[number % len(QUESTIONS)],)

        def listen(event: Event) -> None:
            if isinstance(event, Finished):
                self.latencies.append(time.monotonic() - began)
                self.tokens += event.tokens
                self.written += event.written
            elif isinstance(event, Failed):
                self.failed += 1
            else:
                return
            if self._over:
                with self._lock:
                    self._under_way -= 1
                    self._lock.notify()
            else:
                self._next.put((number + self.clients, client, time.monotonic()))

        return Job(
            str(client), turns, target, weights, decoding, writings_of(turns, target, control, 1), listen
        )

    def run(self, warm_up: float, seconds: float) -> float:
        """Let all clients ask for `seconds` after `warm_up`, of which nothing counts; returns how long it was."""
        self._under_way = self.clients
        for client in range(self.clients):
            self._next.put((client, client, time.monotonic()))
        time.sleep(warm_up)
        before = self.scheduler.metrics.part_totals()
        self.forget()
        if isinstance(self.scheduler, Profiled):
            self.scheduler.wanted = True
        began = time.monotonic()
        time.sleep(seconds)
        if isinstance(self.scheduler, Profiled):
            self.scheduler.wanted = False
        whole, counted = time.monotonic() - began, (self.latencies, self.tokens, self.written)
        self.parts = {
            name: total - before.get(name, 0.0)
            for name, total in self.scheduler.metrics.part_totals().items()
        }
        self._over = True
        with self._lock:
            self._lock.wait_for(lambda: self._under_way <= 0, timeout=120)
        self.latencies, self.tokens, self.written = counted
        return whole


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", nargs="?", type=Path, default=ROOT / "release" / "chat", help="default: release/chat")  # fmt: skip
    options.add_argument("--clients", type=int, default=32, help="jobs under way (default: %(default)s)")
    options.add_argument("--candidates", type=int, default=1, help="of every job (default: %(default)s)")
    options.add_argument("--seconds", type=float, default=20.0, help="that count (default: %(default)g)")
    options.add_argument(
        "--warm-up", type=float, default=10.0, help="seconds before them (default: %(default)g)"
    )
    options.add_argument(
        "--rows", type=int, help="written together at most; default: all candidates of all clients"
    )
    options.add_argument("--join-within", type=int, help="as serve.py's; default: as suits the device")
    options.add_argument("--device", help="cpu, cuda or mps")
    options.add_argument(
        "--profile", action="store_true", help="list the functions of the model's thread; slower"
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 1 where a job failed."""
    given = parser().parse_args(argv)
    model = Miracle.from_pretrained(given.run, device=given.device)
    wanted = given.clients * given.candidates
    made = Profiled if given.profile else Scheduler
    capacity = Capacity(given.rows or wanted, waiting=2 * given.clients, join_within=given.join_within)
    scheduler = made(model, replace(capacity, waiting_per_client=4), Metrics())
    settle()
    scheduler.start()
    load = SteadyLoad(model, scheduler, given.clients, given.candidates)
    seconds = load.run(given.warm_up, given.seconds)
    scheduler.close()
    waits = sorted(load.latencies)
    print(json.dumps({
        "clients": given.clients, "candidates": given.candidates, "rows": capacity.rows, "device": str(model.generator.device),
        "seconds": round(seconds, 2), "answered": len(waits), "failed": load.failed,
        "replies_per_second": round(len(waits) / seconds, 2), "reply_tokens_per_second": round(load.tokens / seconds, 1),
        "written_tokens_per_second": round(load.written / seconds, 1),
        "p50": round(waits[len(waits) // 2], 3) if waits else None, "p99": round(waits[int(0.99 * len(waits))], 3) if waits else None,
        "parts": {name: round(spent / seconds, 3) for name, spent in load.parts.items()},
    }))  # fmt: skip
    if isinstance(scheduler, Profiled):
        for order in ("cumulative", "tottime"):
            pstats.Stats(scheduler.profile, stream=sys.stdout).sort_stats(order).print_stats(45)
    return 1 if load.failed else 0


if __name__ == "__main__":
    run_main(main)
