"""What one client of `scripts.bench_server` does, for locust: a question under the next combination of aspects, again and again."""

import itertools
import os

from locust import HttpUser, constant, task

from scripts.bench_server import request_body

numbers = itertools.count()


class Talker(HttpUser):
    """A client that asks, reads the whole reply, and asks again at once."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """A name of its own, for the server's fairness."""
        self.name = f"client {next(numbers)}"

    @task
    def ask(self) -> None:
        """One request; an answer without a text is a failure."""
        candidates = int(os.environ["BENCH_CANDIDATES"])
        body = request_body(next(numbers), self.name, candidates)
        with self.client.post("/v1/chat/completions", json=body, timeout=600, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif not answer.json()["choices"][0]["message"]["content"]:
                answer.failure("an empty reply")
